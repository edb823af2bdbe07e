"""A keyed work queue: a key waits at most once, and is never in two hands at a time."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Generic, TypeVar

K = TypeVar("K")
Handler = Callable[[K], Awaitable[float | None]]
"""Works on a key; returns the seconds after which it wants to see the key again, or None."""

_logger = logging.getLogger(__name__)
_SHARE = 4  # of so many passes one goes to what is in no hurry, while there is both
_FIRST_SHARE = 16  # of so many passes one goes to the rest, while there are first ones


class Lane(IntEnum):
    """How soon a key wants attention. A full lane starves nobody."""

    FIRST = 0
    """New ones: short passes, on which hardware waits."""
    NEWS = 1
    PATIENT = 2
    """Nothing has happened."""


class WorkQueue(Generic[K]):
    """As in client-go: what is added while being worked on is worked on once more afterwards."""

    def __init__(
        self,
        *,
        backoff_base: float = 0.5,
        backoff_max: float = 300.0,
        on_retry: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._base, self._max = backoff_base, backoff_max
        self._on_retry, self._jitter = on_retry, jitter
        self._lanes: dict[Lane, deque[K]] = {lane: deque() for lane in Lane}
        self._waiting: dict[K, Lane] = {}  # where each key is; an older entry of it in a slower lane is skipped
        self._served = self._later = 0
        self._working: set[K] = set()
        self._again: set[K] = set()  # added while being worked on
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._news = asyncio.Event()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K, lane: Lane = Lane.NEWS) -> None:
        """The key wants attention. Call it from the event loop."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting or lane < self._waiting[key]:
            self._waiting[key] = lane
            self._lanes[lane].append(key)
            self._news.set()

    def add_after(self, key: K, seconds: float) -> None:
        """The key wants attention then; of two such wishes the earlier one counts."""
        loop = asyncio.get_running_loop()
        old = self._timers.get(key)
        if old is not None and old.when() <= loop.time() + seconds:
            return
        if old is not None:
            old.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def failures(self, key: K) -> int:
        """How often in a row the key's work has failed."""
        return self._failures.get(key, 0)

    def stop(self) -> None:
        """Let the workers end after what they have in hand."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._news.set()

    async def work(self, handler: Handler[K]) -> None:
        """Be a worker until `stop`; start as many as wanted."""
        while not self._stopped:
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
                continue
            key = self._next()
            del self._waiting[key]
            self._working.add(key)
            try:
                await self._handle(key, handler)
            finally:
                self._working.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    def _next(self) -> K:
        """From the first lane that has a key, and now and then from the one after it: a full restart starves nobody."""
        self._served += 1
        if self._served % _FIRST_SHARE and self._lanes[Lane.FIRST]:
            return self._lanes[Lane.FIRST].popleft()
        self._later += 1
        order = [Lane.NEWS, Lane.PATIENT] if self._later % _SHARE else [Lane.PATIENT, Lane.NEWS]
        for lane in (*order, Lane.FIRST):
            keys = self._lanes[lane]
            while keys and self._waiting.get(keys[0]) is not lane:
                keys.popleft()
            if keys:
                return keys.popleft()
        raise LookupError("no key waits")

    async def _handle(self, key: K, handler: Handler[K]) -> None:
        try:
            again = await handler(key)
        except Exception as error:
            delay = self._failed(key)
            about = {"about": key}
            _logger.warning("%s; next try in %.1f s", _told(error), delay, exc_info=_odd(error), extra=about)
            self.add_after(key, delay)
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add_after(key, again)

    def _failed(self, key: K) -> float:
        """Count a failure; returns a pause that doubles each time, of which the upper half is random."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        self._on_retry()
        pause: float = min(self._base * 2.0 ** min(count, 30), self._max)
        return pause * (0.5 + 0.5 * self._jitter())

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _odd(error: Exception) -> bool:
    """An error of our own making needs its traceback; what the network does every day needs none."""
    return isinstance(error, (TypeError, LookupError, AttributeError, ValueError, AssertionError))
