"""Tells a run that diverges from one that is noisy.

The mean loss of a window of steps is compared with the lowest such mean so far. A window, because with small batches
any short stretch may be easy by chance; and each loss counts up to a cap, so that no spike or bad stretch that is
overcome ends a run: more than half of the window has to be far too high. The lowest counts as at least a tenth of the
first: a model that knows its rows by heart has losses near zero that mean nothing.
"""

from collections import deque
from itertools import islice
from statistics import fmean

SHARE_OF_FIRST = 0.1
CAP = 1.5
"""Each loss counts up to this many times what would be too high."""
_FEWEST = 5


class Divergence:
    """Hears every logged loss."""

    def __init__(self, factor: float, steps: int, logging_steps: int) -> None:
        self._factor = factor
        self._window: deque[float] = deque(maxlen=max(_FEWEST, -(-steps // logging_steps)))
        self._floor = 0.0
        self.best = float("inf")
        """Lowest mean of a whole window."""
        self.mean = 0.0

    def hear(self, loss: float) -> None:
        """One logged loss: the mean over the steps since the last one."""
        self._window.append(loss)
        if len(self._window) == self._window.maxlen:
            self.mean = self._capped_mean(len(self._window))
            self._floor = self._floor or SHARE_OF_FIRST * self.mean
            self.best = min(self.best, max(self.mean, self._floor))

    @property
    def certain(self) -> bool:
        """Whether the loss has been too high for most of the window: give up."""
        return self.mean > self._limit

    @property
    def suspected(self) -> bool:
        """Whether the newest losses, or the very last, are too high: what is saved now may be spoilt."""
        return max(self._capped_mean(1), self._capped_mean(max(_FEWEST, len(self._window) // 10))) > self._limit

    @property
    def _limit(self) -> float:
        return self._factor * self.best if self._factor else float("inf")

    def _capped_mean(self, newest: int) -> float:
        cap = CAP * self._limit
        return fmean(min(loss, cap) for loss in islice(reversed(self._window), newest)) if self._window else 0.0
