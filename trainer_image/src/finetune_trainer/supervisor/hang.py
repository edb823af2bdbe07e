"""Notices that a run stands still: for far longer than its steps take, nothing has moved.

Time counts only as this process sees it pass: a machine that was frozen as a whole has not hung.
"""

import re
import statistics
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from finetune_api.names import ActiveReason
from finetune_api.progress import Progress
from finetune_trainer.supervisor.story import duration, latest
from finetune_trainer.workdir import WorkDir

FLOOR_SECONDS = 120.0
"""A run is never called hung earlier, however short its steps are."""
TIMES_A_STEP = 20
ELSEWHERE_SECONDS = 1800.0
"""Outside of training, and until its pace is known: a large model is read, compiled or verified in silence."""
_ENOUGH_STEPS = 3
_LOOK_SECONDS = 5.0
"""Two looks are about one second apart; what is beyond this between them, this process itself did not run."""
_STACK = re.compile(r"hread 0x[0-9a-f]+[^\n]*\n((?:  File [^\n]*\n?)+)")


class Watch:
    """Watches the progress file, and the checkpoint that is being written."""

    def __init__(self, work: WorkDir, timeout_seconds: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._timeout = timeout_seconds
        self._clock = clock
        self._looked_at = clock()
        self._quiet = 0.0
        self._seen: tuple[object, int] = (None, 0)
        self._step: tuple[int, float] | None = None
        self._paces: deque[float] = deque(maxlen=101)

    def look(self) -> str:
        """A sentence where the run stands still, or nothing; to be called about once a second."""
        now = self._clock()
        self._quiet += min(now - self._looked_at, _LOOK_SECONDS)
        self._looked_at = now
        progress = latest(self._work) or Progress()
        seen = progress, self._written() if self._quiet >= _LOOK_SECONDS else self._seen[1]
        if seen != self._seen:
            self._seen, self._quiet = seen, 0.0
        self._pace(progress, now)
        return self._sentence(progress) if self._quiet > self._limit(progress) else ""

    def _limit(self, progress: Progress) -> float:
        if progress.phase is not ActiveReason.TRAINING or not self._paces:
            return ELSEWHERE_SECONDS
        if self._timeout:
            return self._timeout
        if len(self._paces) < _ENOUGH_STEPS:
            return ELSEWHERE_SECONDS
        return max(FLOOR_SECONDS, TIMES_A_STEP * statistics.median(self._paces))

    def _pace(self, progress: Progress, now: float) -> None:
        """Learn how long a step takes in this session."""
        if progress.phase is not ActiveReason.TRAINING:
            return
        if self._step is None:
            self._step = progress.step, now
        before, since = self._step
        if progress.step > before:
            self._paces.append((now - since) / (progress.step - before))
            self._step = progress.step, now

    def _written(self) -> int:
        """Bytes of the checkpoints on this disk: one that grows is no hang."""
        total = 0
        for file in self._work.checkpoints.rglob("*"):
            with suppress(OSError):
                total += file.stat().st_size
        return total

    def _sentence(self, progress: Progress) -> str:
        where = f" after step {progress.step} of {progress.total_steps}" if progress.total_steps else ""
        pace = f" (a step takes {statistics.median(self._paces):.1f} s)" if self._paces else ""
        return f"nothing moved for {duration(int(self._quiet))}{where}, in phase {progress.phase.value}{pace}"


def stands_at(stderr: str) -> str:
    """Where the main thread stands, as faulthandler wrote it (its stack is the last of each process); or nothing."""
    stacks = _STACK.findall(stderr)
    return stacks[-1].splitlines()[0].strip() if stacks else ""
