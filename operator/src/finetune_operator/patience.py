"""How soon to try again what somebody else in the cluster does not let through. In memory: a restart tries at once."""

import time
from collections import Counter
from collections.abc import Callable

from finetune_api.names import ClusterReason
from finetune_operator.settings import Settings

Key = tuple[str, str]


class Patience:
    """For each FineTuneJob what it takes."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause, self._longest, self._clock = settings.refused_seconds, settings.retry_max_seconds, clock
        self._failures: Counter[Key] = Counter()
        self._resumed: dict[Key, float] = {}

    def refused(self, key: Key, reason: str) -> float:
        """Seconds until the next try. A webhook that hangs keeps a worker for long: it is asked less and less."""
        if reason != ClusterReason.WEBHOOK_UNAVAILABLE:
            return self._pause
        self._failures[key] += 1
        return float(min(self._pause * 2 ** min(self._failures[key] - 1, 20), self._longest))

    def accepted(self, key: Key) -> None:
        """What was refused has been let through."""
        self._failures.pop(key, None)

    def may_resume(self, key: Key) -> bool:
        """Whether its Job is not one that was resumed a moment ago and that somebody else has suspended again."""
        last = self._resumed.get(key)
        return last is None or self._clock() - last >= self._pause

    def acted(self, key: Key, *, suspend: bool) -> None:
        """We have suspended or resumed its Job. After what we have suspended ourselves, no quarrel follows."""
        self._resumed.pop(key, None)
        if not suspend:
            self._resumed[key] = self._clock()

    def forget(self, key: Key) -> None:
        """The FineTuneJob is gone."""
        self.accepted(key)
        self._resumed.pop(key, None)
