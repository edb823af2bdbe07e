"""Brings the worker's checkpoints to storage while it trains on: a thread of PID 1.

The newest goes first: while one is under way, all but the newest of those that come after it are dropped. What cannot
be uploaded is tried again, with a pause, for as long as the run lasts: storage that is down for an hour shall not end
a training that needs it only at its end.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from finetune_trainer.errors import RunError
from finetune_trainer.publish import CheckpointStore, Outbox, Parcel
from finetune_trainer.supervisor.mailbox import Hear

_log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
PAUSES = (1, 2, 5, 10, 30, 60)
"""Seconds before the next try; the last one again and again."""
LAST_WORD_SECONDS = 300.0
"""For the last checkpoint of a run that failed: nobody is in a hurry, but its GPU is held."""
GRACE_SECONDS = 5.0
"""At least this long for the last checkpoint of a run that was stopped, even where its worker took all the time."""
_CLEAR_SECONDS = 60.0


class _Overtaken(Exception):  # noqa: N818 - no error
    """A newer checkpoint came when there was no time left for an older one."""


@dataclass(frozen=True)
class Stored:
    """What storage holds when a run has ended, and what it does not."""

    step: int = 0
    """Of the newest checkpoint there; 0 for none."""
    good_step: int = 0
    """Of the newest one that was saved before the loss went up; 0 where that is not known."""
    lost_step: int = 0
    """Of a newer one that could not be uploaded; 0 for none."""
    why: str = ""
    """Why it could not."""


class Uploads:
    """Uploads what comes into the outbox, and says how far storage has come."""

    def __init__(self, outbox: Outbox, checkpoints: CheckpointStore, keep: int) -> None:
        self._outbox = outbox
        self._checkpoints = checkpoints
        self._keep = keep
        self._lock = threading.Lock()
        self._parcel: Parcel | None = None
        self._pruning = False
        self._hurry = threading.Event()
        self._over = threading.Event()
        self._why = ""
        self._step = self._good_step = 0
        self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)

    def start(self) -> None:
        """Begin; what an earlier run left on this disk does not count.

        Raises:
            RunError: Storage cannot be listed.
        """
        self._step = self._checkpoints.newest()
        self._outbox.clear()
        self._thread.start()

    def busy(self) -> bool:
        """Tell whether a checkpoint waits or is under way, or older ones are being deleted."""
        with self._lock:
            return self._parcel is not None or self._pruning or self._outbox.waits()

    def finish(self, hear: Hear, deadline: float | None, grace_seconds: float) -> Stored:
        """Bring the newest checkpoint to storage before the run ends.

        Args:
            hear: Waits for the next signal. A stop leaves `grace_seconds` from now; a second SIGINT ends the waiting.
            deadline: By `time.monotonic`; None where nobody has asked the run to stop.
            grace_seconds: From a stop signal to the end.
        """
        self._hurry.set()
        asked = deadline is not None
        now = time.monotonic()
        least = now + min(GRACE_SECONDS, grace_seconds)
        end = max(deadline, least) if deadline is not None else now + LAST_WORD_SECONDS
        while self.busy() and time.monotonic() < end:
            number = hear(0.1)
            if number == signal.SIGINT and asked:
                break
            if number in (signal.SIGTERM, signal.SIGINT) and not asked:
                asked, end = True, time.monotonic() + grace_seconds
        return self._stored()

    def discard(self) -> None:
        """Delete all checkpoints, for a run whose result is published; what storage refuses stays, with a sentence."""
        self._over.set()
        self._hurry.set()
        self._thread.join(_CLEAR_SECONDS)
        self._outbox.clear()
        try:
            self._checkpoints.clear()
        except RunError as error:
            _log.warning("The checkpoints in %s could not be deleted: %s", self._checkpoints.uri, error.message)

    def _stored(self) -> Stored:
        with self._lock:
            lost = self._parcel or self._outbox.take()
            return Stored(self._step, self._good_step, lost.step if lost else 0, self._why if lost else "")

    def _run(self) -> None:
        failures = 0
        while not self._over.is_set():
            parcel = self._next()
            if parcel is None:
                self._over.wait(LOOK_SECONDS if not self._hurry.is_set() else 0.05)
                continue
            if _try(lambda p=parcel: self._upload(p), self._note):  # type: ignore[misc]
                failures = 0
                if self._pruning:
                    _try(lambda: self._checkpoints.prune(self._keep), _say_unpruned)
                    self._pruning = False
            else:
                self._pause(PAUSES[min(failures, len(PAUSES) - 1)])
                failures += 1

    def _next(self) -> Parcel | None:
        """The newest checkpoint; one that failed is tried again, unless a newer one has come meanwhile."""
        with self._lock:
            newer = self._outbox.take()
            if newer and self._parcel:
                self._outbox.done(self._parcel)
            self._parcel = newer or self._parcel
            return self._parcel

    def _upload(self, parcel: Parcel) -> None:
        try:
            self._checkpoints.save(parcel.folder, parcel.step, good=parcel.good, before_each=self._give_way)
        except _Overtaken:
            return
        with self._lock:
            self._step = parcel.step
            self._good_step = parcel.step if parcel.good else self._good_step
            self._parcel, self._why, self._pruning = None, "", True
        self._outbox.done(parcel)

    def _give_way(self, _: str) -> None:
        """Between two files: at the end of a run its last checkpoint does not wait for the one before."""
        if self._hurry.is_set() and self._outbox.waits():
            raise _Overtaken

    def _note(self, why: str) -> None:
        self._why = why
        step = self._parcel.step if self._parcel else 0
        _log.warning("The checkpoint of step %d is not in storage yet, and is tried again: %s", step, why)

    def _pause(self, seconds: float) -> None:
        """Wait, but not for long once the run is over."""
        self._hurry.wait(seconds)
        if self._hurry.is_set():
            self._over.wait(PAUSES[0])


def _try(act: Callable[[], None], fail: Callable[[str], None]) -> bool:
    """Act; whatever goes wrong is told, for nobody looks at a thread that died."""
    try:
        act()
    except RunError as error:
        fail(f"{error.reason}: {error.message}")
    except Exception as error:
        _log.exception("Unexpected error while a checkpoint was uploaded.")
        fail(f"{type(error).__name__}: {error}")
    else:
        return True
    return False


def _say_unpruned(why: str) -> None:
    _log.warning("Old checkpoints could not be deleted yet: %s", why)
