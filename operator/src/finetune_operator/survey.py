"""A look at everything at once: few long lists in place of three requests for each FineTuneJob.

Most FineTuneJobs of a cluster are over or wait. Lists tell that nothing is due for them, by the same plan that a pass
makes; all others get a pass, which reads for itself. So a list that is old by now costs at most a pass.
"""

import asyncio
import json
import logging
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from finetune_api import names
from finetune_operator.cluster import Cluster, Key
from finetune_operator.errors import ApiError
from finetune_operator.reconcile import Reconciler
from finetune_operator.workqueue import Lane, WorkQueue

_logger = logging.getLogger(__name__)
Resource = dict[str, Any]
_QUIET_SECONDS = 1.0
_AGAIN_SECONDS = 5.0
_KINDS = ("jobs", "pods")


class Survey:
    """Looks when a watch has listed anew (who knows what it missed), and from time to time all the same."""

    def __init__(
        self, cluster: Cluster, reconciler: Reconciler, queue: WorkQueue[Key], namespaces: tuple[str, ...]
    ) -> None:
        self._cluster, self._reconciler, self._queue, self._namespaces = cluster, reconciler, queue, namespaces
        self._wanted = asyncio.Event()
        self._asked = 0.0

    def want(self) -> None:
        """A watch lists. What changes after that it tells by itself, so it is now that all must be looked at."""
        self._asked = asyncio.get_running_loop().time()
        self._wanted.set()

    async def run(self, pause: Callable[[], float]) -> None:
        """Look for ever; `pause` says for how many seconds nobody need ask."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), pause())
            await self._quiet()
            self._wanted.clear()
            try:
                await self.look()
            except (ApiError, TimeoutError) as error:
                _logger.warning("cannot list everything, and tries again in %.0f s: %s", _AGAIN_SECONDS, error)
                self._wanted.set()
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _quiet(self) -> None:
        """Three watches list in pages: one look after all of them will do."""
        loop = asyncio.get_running_loop()
        while (left := self._asked + _QUIET_SECONDS - loop.time()) > 0:  # noqa: ASYNC110 - it waits for silence
            await asyncio.sleep(left)

    async def look(self) -> None:
        """Ask for a pass for each FineTuneJob that one is due for. Raises ApiError and TimeoutError."""
        children = {kind: await self._children(kind) for kind in _KINDS}
        gone, due = self._reconciler.known(), 0
        async for page in self._cluster.pages(names.PLURAL, self._namespaces):
            for resource in page:
                key = (resource["metadata"]["namespace"], resource["metadata"]["name"])
                gone.discard(key)
                mine = [children[kind].pop(resource["metadata"]["uid"], []) for kind in _KINDS]
                due += self._judge(key, resource, *mine)
                await asyncio.sleep(0)  # a thousand of them are seconds: the probes want to be heard
        for key in gone:
            self._ask(key)
        _logger.info("looked at everything: %d FineTuneJobs want a pass", due + len(gone))

    async def _children(self, kind: str) -> dict[str, list[bytes]]:
        """Compressed, by their FineTuneJob's uid: ten thousand Jobs as objects of Python are most of a gigabyte."""
        found: dict[str, list[bytes]] = {}
        async for page in self._cluster.pages(kind, self._namespaces):
            for item in page:
                uid = item["metadata"]["labels"].get(names.LABEL_JOB_UID, "")
                found.setdefault(uid, []).append(zlib.compress(json.dumps(item).encode(), 1))
        return found

    def _judge(self, key: Key, resource: Resource, jobs: list[bytes], pods: list[bytes]) -> bool:
        """Whether a pass is due."""
        try:
            rest = self._reconciler.rest(
                resource, *([json.loads(zlib.decompress(c)) for c in kind] for kind in (jobs, pods))
            )
        except Exception:  # the pass runs into the same, and deals with it
            rest = 0.0
        if rest == 0.0:
            self._ask(key)
        elif rest is not None:
            self._queue.add_after(key, rest)
        return rest == 0.0

    def _ask(self, key: Key) -> None:
        """For a pass that reads: the lists may know what no watch told."""
        self._reconciler.news(key)
        self._queue.add(key, Lane.PATIENT)
