"""What an evaluation has found."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Scores:
    """Of one model on all held-out rows."""

    loss: float
    """Mean loss per trained token, or other item of the task, nats."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the task measures beside the loss, by name, each from 0 to 1 and better the higher it is."""
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of classification: how often each label was taken for each, by the true one and then the predicted one."""

    def beside(self, metrics: Mapping[str, float]) -> "Scores":
        """The same, with more metrics."""
        return replace(self, metrics={**self.metrics, **metrics})
