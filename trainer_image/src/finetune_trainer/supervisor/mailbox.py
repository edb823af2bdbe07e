"""Turns signals into messages, so that everything happens in one loop and nothing inside a signal handler."""

import queue
import signal
from collections.abc import Callable
from types import FrameType

STOPS = (signal.SIGTERM, signal.SIGINT)
Hear = Callable[[float], signal.Signals | None]
"""`Mailbox.get`."""
_HEARD = (*STOPS, signal.SIGCHLD)


class Mailbox:
    """Collects the signals of this process. PID 1 has no default actions: without this, SIGTERM would do nothing."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put() is reentrant
        for number in _HEARD:
            signal.signal(number, self._put)

    def post(self, number: signal.Signals) -> None:
        """Act as if this process had got a signal."""
        self._queue.put(number)

    def _put(self, number: int, _: FrameType | None) -> None:
        self._queue.put(number)

    def get(self, timeout: float) -> signal.Signals | None:
        """Wait for the next signal; None when none came in time."""
        try:
            return signal.Signals(self._queue.get(timeout=max(0.0, timeout)))
        except queue.Empty:
            return None
