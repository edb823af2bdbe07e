"""Tells the log how far the run is, so that it is never silent for long."""

import time
from collections.abc import Callable

from finetune_api.names import ActiveReason
from finetune_api.progress import Progress
from finetune_trainer.workdir import WorkDir

INTERVAL_SECONDS = 10.0
_STALE_SECONDS = 60


class Story:
    """Says one line at each new phase and every ten seconds."""

    def __init__(self, work: WorkDir, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._work = work
        self._say = say
        self._clock = clock
        self._began = self._said_at = clock()
        self._phase = ActiveReason.STARTING
        self._heard: Progress | None = None
        self._heard_at = self._began

    def tick(self) -> None:
        """To be called about once a second."""
        progress, now = latest(self._work), self._clock()
        if progress != self._heard:
            self._heard, self._heard_at = progress, now
        phase = progress.phase if progress else ActiveReason.STARTING
        if phase != self._phase or now - self._said_at >= INTERVAL_SECONDS - 1:
            self._phase = phase
            self._said_at = now
            elapsed, silent = int(now - self._began), int(now - self._heard_at)
            self._say(sentence(progress, silent) if progress else f"Starting: {elapsed} s so far.")


def latest(work: WorkDir) -> Progress | None:
    """The last progress, or None where there is none that can be read; progress never decides anything."""
    try:
        return work.read_progress()
    except (OSError, ValueError):  # pydantic.ValidationError is a ValueError
        return None


def sentence(progress: Progress, silent: int = 0) -> str:
    """One line about a progress document, for instance `Training: step 3 of 9 (33%), loss 1.2144, 4m10s left`.

    `silent` are the seconds since it last changed, by a clock that nobody sets.
    """
    training = progress.phase is ActiveReason.TRAINING and progress.total_steps > 0
    facts = _numbers(progress) if training else [progress.message] if progress.message else []
    if silent >= _STALE_SECONDS:
        facts.append(f"no news for {duration(silent)}")
    return f"{progress.phase.value}: {', '.join(facts) or 'under way'}."


def _numbers(progress: Progress) -> list[str]:
    facts = [f"step {progress.step} of {progress.total_steps} ({progress.percent}%)"]
    if progress.loss is not None:
        facts.append(f"loss {progress.loss:.4f}")
    if progress.eta_seconds is not None:
        facts.append(f"{duration(progress.eta_seconds)} left")
    return facts


def duration(seconds: int) -> str:
    """For instance 45s, 4m10s or 2h03m."""
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
