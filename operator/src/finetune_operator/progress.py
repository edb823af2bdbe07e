"""Pulls the progress of running trainers. What cannot be read changes nothing."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError

from finetune_api import names
from finetune_api.progress import Progress

Key = tuple[str, str]
_LIMIT = 64 * 1024
_AT_ONCE = 32
_TICK_SECONDS = 0.5


@dataclass
class _Target:
    job_name: str
    ip: str
    due: float = 0.0
    last: Progress | None = None


class Poller:
    """Knows which trainers run, asks each from time to time, and tells when one had something new to say."""

    def __init__(self, seconds: float, changed: Callable[[Key], None], port: int = names.TRAINER_PORT) -> None:
        self._seconds, self._changed, self._port = seconds, changed, port
        self._targets: dict[Key, _Target] = {}

    def follow(self, key: Key, job_name: str, ip: str | None) -> None:
        """The trainer of that Job runs at that address; None: nothing of it runs."""
        old = self._targets.get(key)
        if ip is None:
            self._targets.pop(key, None)
        elif old is None or (old.job_name, old.ip) != (job_name, ip):
            self._targets[key] = _Target(job_name, ip)

    def last(self, key: Key, job_name: str, ip: str | None) -> Progress | None:
        """What that very trainer said last."""
        target = self._targets.get(key)
        return target.last if target and (target.job_name, target.ip) == (job_name, ip) else None

    async def run(self) -> None:
        """Poll for ever."""
        timeout = aiohttp.ClientTimeout(total=2.0)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            while True:
                await self._round(session)
                await asyncio.sleep(_TICK_SECONDS)

    async def _round(self, session: aiohttp.ClientSession) -> None:
        now = asyncio.get_running_loop().time()
        due = [(key, target) for key, target in self._targets.items() if target.due <= now][:_AT_ONCE]
        for _, target in due:
            target.due = now + self._seconds * random.uniform(0.8, 1.2)
        await asyncio.gather(*(self._ask(session, key, target) for key, target in due))

    async def _ask(self, session: aiohttp.ClientSession, key: Key, target: _Target) -> None:
        host = f"[{target.ip}]" if ":" in target.ip else target.ip
        try:
            async with session.get(f"http://{host}:{self._port}/progress", allow_redirects=False) as answer:
                if answer.status != 200:
                    return
                said = Progress.model_validate_json(await answer.content.read(_LIMIT))
        except (aiohttp.ClientError, TimeoutError, ValidationError):
            return
        if said != target.last and self._targets.get(key) is target:
            target.last = said
            self._changed(key)
