"""Counts downloaded bytes and says so, at most once a second."""

import threading
import time
from collections.abc import Callable

_INTERVAL_SECONDS = 1.0


class Meter:
    """One count over several files and threads."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total = total
        self._say = say
        self._done = 0
        self._said_at = 0.0
        self._lock = threading.Lock()

    def of(self, name: str) -> Callable[[int], None]:
        """Return the callback for one file."""

        def count(size: int) -> None:
            with self._lock:
                self._done += size
                now = time.monotonic()
                if now - self._said_at < _INTERVAL_SECONDS and self._done < self._total:
                    return
                self._said_at = now
                sentence = f"downloading {name}: {_megabytes(self._done)} of {_megabytes(self._total)} MB"
            self._say(sentence)

        return count


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f}" if size >= 10_000_000 else f"{size / 1e6:.1f}"
