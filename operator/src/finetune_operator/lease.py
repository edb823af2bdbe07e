"""Leader election by a Lease, as client-go does it: who holds it leads, and holds it as long as it is renewed.

A holder is gone when its record has not changed for the Lease's duration, by the observer's own monotonic clock: the
time written in a record is for people. Every write names the resourceVersion that was read: of two only one succeeds.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from finetune_operator import metrics
from finetune_operator.errors import ApiError

_logger = logging.getLogger(__name__)
_RELEASE_SECONDS = 2.0
Resource = dict[str, Any]


class LeaseLostError(Exception):
    """This replica led and does not any more: the process has to end."""


class Api(Protocol):
    """Where the Lease is kept."""

    async def lease(self, verb: str, namespace: str, name: str, body: Resource | None = None) -> Resource:
        """GET, POST or PUT it; raises ApiError."""


@dataclass(frozen=True)
class Timing:
    """In seconds. A holder that could not renew for `renew` stops writing; for `lease`, another one takes over."""

    lease: float = 15.0
    renew: float = 10.0
    retry: float = 2.0


class Elector:
    """Wants the Lease, keeps it, and gives it back."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._namespace, self._name, self._identity = api, namespace, name, identity
        self._timing, self._clock = timing, clock
        self._lease: Resource | None = None  # as last seen or written
        self._changed = 0.0  # when its record was first seen, by our clock
        self._renewed: float | None = None  # when the request was made that last made us its holder
        self.reached = asyncio.Event()
        """Set once the Lease could be read: from then on this replica is able to lead."""
        self.leading = asyncio.Event()
        """Set once this replica leads."""

    def may_write(self) -> bool:
        """Whether nobody else can have taken the Lease yet."""
        return self._renewed is not None and self._clock() - self._renewed < self._timing.renew

    async def run(self) -> None:
        """Wait for the Lease and keep it; never returns, raises LeaseLostError."""
        while not await self._try(self._timing.renew / 2):  # noqa: ASYNC110 - the news is in the API server
            await asyncio.sleep(self._pause())
        self.leading.set()
        metrics.LEADER.set(1)
        _logger.info("Lease %s: taken, %s leads now", self._title, self._identity)
        while True:
            await asyncio.sleep(self._timing.retry)
            await self._try(min(self._timing.renew / 2, self._left()))
            self._left()

    async def release(self) -> None:
        """Give the Lease back, if it is ours; after this nothing is written any more."""
        self._renewed = None
        metrics.LEADER.set(0)
        if not self.leading.is_set():
            return
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._look()
                if self._holder == self._identity:
                    await self._write(self._record("", 1))
                    _logger.info("Lease %s: released", self._title)
        except (ApiError, TimeoutError) as error:
            _logger.warning("Lease %s: could not be released, the next one waits for its end: %s", self._title, error)

    @property
    def _title(self) -> str:
        return f"{self._namespace}/{self._name}"

    @property
    def _spec(self) -> Resource:
        return dict((self._lease or {}).get("spec") or {})

    @property
    def _holder(self) -> str:
        return str(self._spec.get("holderIdentity") or "")

    def _left(self) -> float:
        """Seconds until we stop leading; raises LeaseLostError when there are none."""
        if self._renewed is None:
            raise LeaseLostError(f"Lease {self._title} is held by {self._holder}")
        left = self._renewed + self._timing.renew - self._clock()
        if left <= 0:
            self._renewed = None  # a clock may not make it ours again
            raise LeaseLostError(f"Lease {self._title} was not renewed for {self._timing.renew:g} s")
        return left

    def _pause(self) -> float:
        """How long a standby looks away: not past the time when the holder's Lease ends."""
        pause = self._timing.retry * random.uniform(0.8, 1.2)
        return min(pause, max(self._valid_for(), 0.1)) if self._valid_for() > 0 else pause

    def _valid_for(self) -> float:
        """Seconds for which another one still holds the Lease; not positive when it is free or ours."""
        if self._holder in ("", self._identity):
            return 0.0
        return self._changed + float(self._spec.get("leaseDurationSeconds") or 0) - self._clock()

    async def _try(self, seconds: float) -> bool:
        """Take or renew the Lease, if that can be done in time; whether it is ours now."""
        try:
            async with asyncio.timeout(seconds):
                return await self._take()
        except (ApiError, TimeoutError) as error:
            what = "renewed" if self.leading.is_set() else "taken"
            _logger.warning("Lease %s: cannot be %s: %s", self._title, what, error or type(error).__name__)
            return False

    async def _take(self) -> bool:
        if self._renewed is not None and await self._write(self._record(self._identity, self._timing.lease)):
            return True  # nobody else writes it as a rule, so what we wrote last is still there
        await self._look()
        if self._valid_for() > 0:
            self._renewed = None
            return False
        return await self._write(self._record(self._identity, self._timing.lease))

    async def _look(self) -> None:
        before, known = self._spec, self._lease is not None
        try:
            self._lease = await self._api.lease("GET", self._namespace, self._name)
        except ApiError as error:
            if error.status != 404:
                raise
            self._lease = None
        self.reached.set()
        if not known or self._spec != before:
            self._changed = self._clock()
        if self._holder not in ("", self._identity, before.get("holderIdentity")):
            _logger.info("Lease %s: held by %s, %s stands by", self._title, self._holder, self._identity)

    def _record(self, holder: str, seconds: float) -> Resource:
        """The Lease's next spec."""
        now, old = _micro_time(), self._spec
        goes_on = holder in ("", old.get("holderIdentity"))
        transitions = int(old.get("leaseTransitions") or 0)
        return {
            **old,
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(seconds)),
            "acquireTime": old.get("acquireTime", now) if goes_on else now,
            "renewTime": now,
            "leaseTransitions": transitions if goes_on or not old else transitions + 1,
        }

    async def _write(self, spec: Resource) -> bool:
        """Write the Lease over the one that was seen; False if somebody else was faster."""
        made: Resource = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        made["metadata"] = (self._lease or {}).get("metadata") or {"name": self._name, "namespace": self._namespace}
        started = self._clock()
        try:
            verb = "PUT" if self._lease else "POST"
            self._lease = await self._api.lease(verb, self._namespace, self._name, {**made, "spec": spec})
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return False
        self._changed = started
        self._renewed = started if spec["holderIdentity"] == self._identity else None
        return True


class Alone(Elector):
    """Leader election switched off: this is the only process, and it leads."""

    def __init__(self) -> None:
        self.reached, self.leading = asyncio.Event(), asyncio.Event()

    def may_write(self) -> bool:
        """Always."""
        return True

    async def run(self) -> None:
        """Lead for ever."""
        self.reached.set()
        self.leading.set()
        metrics.LEADER.set(1)
        await asyncio.Event().wait()

    async def release(self) -> None:
        """There is nothing to give back."""


def _micro_time() -> str:
    """Now as Kubernetes' MicroTime: RFC 3339 in UTC, always with six digits."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
