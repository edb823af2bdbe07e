"""Pulls the progress of running trainers. What cannot be read changes nothing."""

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from pydantic import ValidationError

from finetune_api import names
from finetune_api.progress import Progress

Key = tuple[str, str]
_LIMIT = 64 * 1024
_TICK_SECONDS = 0.25
_ANSWER_SECONDS = 2.0
_LONGEST_PAUSE = 30.0  # between two questions to a trainer that does not answer


@dataclass
class _Target:
    job_name: str
    ip: str
    due: float
    since: float
    """When it was asked first."""
    last: Progress | None = None
    unanswered: int = 0
    """In a row."""
    answered: float | None = None
    """When it was heard of last."""


class Poller:
    """Knows which trainers run, asks each from time to time, and tells when one had something new to say."""

    def __init__(
        self,
        seconds: float,
        changed: Callable[[Key], None],
        port: int = names.TRAINER_PORT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._changed, self._port, self._clock = seconds, changed, port, clock
        self._targets: dict[Key, _Target] = {}
        self._heard: dict[str, float] = {}
        """When a trainer of a namespace, and so behind its network policies, answered last."""

    def follow(self, key: Key, job_name: str, ip: str | None) -> None:
        """The trainer of that Job runs at that address; None: nothing of it runs."""
        old = self._targets.get(key)
        if ip is None:
            self._targets.pop(key, None)
        elif old is None or (old.job_name, old.ip) != (job_name, ip):
            now = self._clock()
            soon = now + random.uniform(0.0, 0.3) * self._seconds  # a thousand may start at once
            self._targets[key] = _Target(job_name, ip, soon, now)

    def last(self, key: Key, job_name: str, ip: str | None) -> Progress | None:
        """What that very trainer said last."""
        target = self._target(key, job_name, ip)
        return target.last if target else None

    def silence(self, key: Key, job_name: str, ip: str | None, *, spoke: bool = False) -> float | None:
        """Seconds since that very trainer was last heard of; None if it never was.

        Where others of its namespace run, and none of them was heard of since, it is we who hear nothing: 0.

        Args:
            key: Its FineTuneJob.
            job_name: Its Job.
            ip: Its address.
            spoke: It has answered an operator before this one. Then it counts from when this one asked first, once
                another trainer's answer shows that there is a way to them.
        """
        target = self._target(key, job_name, ip)
        if target is None:
            return None
        since = target.answered if target.answered is not None else (target.since if spoke else None)
        if since is None:
            return None
        near = (other for name, other in self._targets.items() if name[0] == key[0] and name != key)
        others = any(other.answered is not None for other in near)
        deaf = self._last_heard(key) <= since if others else target.answered is None
        return 0.0 if deaf else self._clock() - since

    def in_vain(self, key: Key, job_name: str, ip: str | None) -> float | None:
        """Seconds for which that very trainer was asked and has never answered, where others of its namespace have."""
        target = self._target(key, job_name, ip)
        if target is None or target.answered is not None or self._last_heard(key) <= target.since:
            return None
        return self._clock() - target.since

    def _target(self, key: Key, job_name: str, ip: str | None) -> _Target | None:
        target = self._targets.get(key)
        return target if target and (target.job_name, target.ip) == (job_name, ip) else None

    def _last_heard(self, key: Key) -> float:
        return self._heard.get(key[0], -math.inf)

    async def run(self) -> None:
        """Poll for ever. Each question is a task of its own: who does not answer holds nobody else up."""
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3 * self._seconds)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session,
            asyncio.TaskGroup() as asked,
        ):
            while True:
                self._round(session, asked)
                await asyncio.sleep(_TICK_SECONDS)

    def _round(self, session: aiohttp.ClientSession, asked: asyncio.TaskGroup) -> None:
        now = self._clock()
        for key, target in self._targets.items():
            if target.due <= now:
                target.due = math.inf  # nobody is asked twice at a time
                asked.create_task(self._turn(session, key, target, now))

    async def _turn(self, session: aiohttp.ClientSession, key: Key, target: _Target, now: float) -> None:
        answered = await self._ask(session, target)
        target.unanswered = 0 if answered else target.unanswered + 1
        if answered:
            target.answered = self._heard[key[0]] = self._clock()
        target.due = now + self._pause(target)
        if answered and answered != target.last and self._targets.get(key) is target:
            target.last = answered
            self._changed(key)

    def _pause(self, target: _Target) -> float:
        """Doubles with every question that was not answered."""
        pause = self._seconds * 2.0 ** min(target.unanswered, 10)
        return min(pause, max(_LONGEST_PAUSE, self._seconds)) * random.uniform(0.8, 1.2)

    async def _ask(self, session: aiohttp.ClientSession, target: _Target) -> Progress | None:
        """None: nothing that can be read."""
        host = f"[{target.ip}]" if ":" in target.ip else target.ip
        try:
            async with session.get(f"http://{host}:{self._port}/progress", allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                return Progress.model_validate_json(await answer.content.read(_LIMIT))
        except (aiohttp.ClientError, TimeoutError, ValidationError):
            return None
