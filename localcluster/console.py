"""What the person at the terminal sees: sentences with the time since start, and never a long silence."""

import sys
import time
from collections.abc import Callable

HEARTBEAT_SECONDS = 5.0
_START = time.monotonic()


def say(message: str) -> None:
    """Print one line on stderr: stdout belongs to what a script may read."""
    print(f"[{time.monotonic() - _START:6.1f} s] {message}", file=sys.stderr, flush=True)


class Heartbeat:
    """For a loop that may take long: says what is going on when there has been nothing to read for a while.

    Args:
        what: What is going on.
        detail: Asked before each line for what is new.
        first: Seconds of silence before the first line.
    """

    def __init__(self, what: str, detail: Callable[[], str] = str, *, first: float = HEARTBEAT_SECONDS) -> None:
        self._what = what
        self._detail = detail
        self._began = time.monotonic()
        self._due = self._began + first

    def beat(self) -> None:
        """Speak if it is time."""
        if (now := time.monotonic()) < self._due:
            return
        self._due = now + HEARTBEAT_SECONDS
        news = self._detail()
        say(f"{self._what} ({now - self._began:.0f} s){': ' + news if news else ''}")

    def wait(self) -> None:
        """Sleep a little, and speak if it is time."""
        time.sleep(0.05)
        self.beat()
