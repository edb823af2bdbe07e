"""What makes one evaluation better than another, and how a run stands by all it has had.

Everything is worked out anew from the Trainer's log, which every checkpoint holds: a run that was stopped and goes on
knows what one that was never stopped knows. (transformers' EarlyStoppingCallback counts in memory, and would start
counting anew.)
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import LOSS, Evaluation
from finetune_trainer.errors import RunError
from finetune_trainer.training.scores import Scores


def logged(scores: Scores) -> dict[str, float]:
    """Scores under the names that they have in the Trainer's log."""
    measured = {f"eval_{name}": value for name, value in scores.metrics.items()}
    perplexity = {} if scores.confusion else {"eval_perplexity": math.exp(min(scores.loss, 100.0))}
    return {"eval_loss": scores.loss, **perplexity, **measured}


@dataclass(frozen=True)
class Standing:
    """How a run stands after some evaluations."""

    best_step: int = 0
    """Of the best evaluation, the first of equals; 0 before any."""
    best: float = 0.0
    stale: int = 0
    """Evaluations since the last one that counted as an improvement."""


@dataclass(frozen=True)
class Goal:
    """One metric and its direction."""

    metric: str = LOSS
    min_delta: float = 0.0
    field: str = "evaluation.metric"
    """What asks for the metric."""

    @classmethod
    def of(cls, evaluation: Evaluation) -> "Goal":
        """As the spec says."""
        stopping = evaluation.early_stopping
        return cls(evaluation.metric, float(stopping.min_delta) if stopping else 0.0)

    @property
    def name(self) -> str:
        """For sentences."""
        return "loss" if self.metric == LOSS else self.metric

    def value(self, scores: Scores) -> float:
        """The metric's value.

        Raises:
            RunError: InvalidConfiguration, where nothing measures it.
        """
        if self.metric == LOSS:
            return scores.loss
        if self.metric not in scores.metrics:
            there = ", ".join([LOSS, *sorted(scores.metrics)])
            message = f"{self.field}: nothing measures {self.metric} in this run"
            raise RunError(Reason.INVALID_CONFIGURATION, message, f"These are measured: {there}.")
        return scores.metrics[self.metric]

    def better(self, one: float, other: float, by: float = 0.0) -> bool:
        """Whether `one` is better than `other` by more than `by`: a loss the lower, all else the higher it is."""
        return other - one > by if self.metric == LOSS else one - other > by

    def standing(self, history: Iterable[Mapping[str, Any]]) -> Standing:
        """Judge what the Trainer has logged, in order."""
        standing, counted = Standing(), 0.0
        for step, value in self._values(history):
            improved = not standing.best_step or self.better(value, counted, self.min_delta)
            counted = value if improved else counted
            ahead = not standing.best_step or self.better(value, standing.best)
            best = (step, value) if ahead else (standing.best_step, standing.best)
            standing = Standing(*best, 0 if improved else standing.stale + 1)
        return standing

    def _values(self, history: Iterable[Mapping[str, Any]]) -> Iterable[tuple[int, float]]:
        key = "eval_loss" if self.metric == LOSS else f"eval_{self.metric}"
        return [(entry["step"], entry[key]) for entry in history if key in entry]


def evaluated(history: Iterable[Mapping[str, Any]], step: int) -> bool:
    """Whether the log holds an evaluation of that step."""
    return any("eval_loss" in entry and entry["step"] == step for entry in history)
