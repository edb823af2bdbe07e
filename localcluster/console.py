"""What the person at the terminal sees: sentences with the time since start, and never a long silence."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HEARTBEAT_SECONDS = 5.0
_START = time.monotonic()


def say(message: str) -> None:
    """Print one line on stderr: stdout belongs to what a script may read."""
    print(f"[{time.monotonic() - _START:6.1f} s] {message}", file=sys.stderr, flush=True)


@contextmanager
def heartbeat(
    what: str,
    detail: Callable[[], str] = lambda: "",
    *,
    first: float = HEARTBEAT_SECONDS,
    interval: float = HEARTBEAT_SECONDS,
) -> Iterator[Callable[[], None]]:
    """Yield a function to call in a waiting loop: it sleeps a little, and speaks when it has been quiet for long.

    Args:
        what: What is going on.
        detail: Asked each time for what is new.
        first: Seconds of silence before the first line.
        interval: Seconds between lines after that.
    """
    began = time.monotonic()
    due = began + first

    def wait() -> None:
        nonlocal due
        time.sleep(0.05)
        if (now := time.monotonic()) >= due:
            due = now + interval
            news = detail()
            say(f"{what} ({now - began:.0f} s){': ' + news if news else ''}")

    yield wait
