"""SIGTERM and SIGINT: stop at once where nothing is lost, at the end of the step while training.

stop = StopSwitch()
stop.install()
...                       a signal raises Stopped here
with stop.deferred():
    trainer.train()       a signal only sets `stop.requested` here; a callback looks at it after each step
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """The run was asked to stop. Like KeyboardInterrupt no Exception, so that no library swallows it."""


class StopSwitch:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def install(self) -> None:
        """Listen to SIGTERM (Kubernetes, torchrun) and SIGINT (Ctrl-C)."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def request(self) -> None:
        """Ask for the stop; raises Stopped unless deferred. Asking again changes nothing."""
        repeated = self.requested
        self.requested = True
        if not repeated and not self._deferred:
            raise Stopped

    def check(self) -> None:
        """Raise Stopped where a library swallowed the first one: a bare `except`, a destructor, a C callback."""
        if self.requested:
            raise Stopped

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While inside, a request waits for someone to look at it; what nobody looked at raises Stopped at the end."""
        self.check()
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.request()
