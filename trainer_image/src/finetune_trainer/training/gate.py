"""The quality gate: what must hold of what is to be published."""

from collections.abc import Iterator

from finetune_api.outcome import Outcome, Reason
from finetune_api.v1alpha1 import Evaluation, Gate
from finetune_trainer.errors import RunError
from finetune_trainer.training.goal import Goal
from finetune_trainer.training.scores import Scores

ACCURACY = "accuracy"
_REMEDY = "Nothing was published. Train longer, on other data or at another learning rate, or ask for less."


class GateError(RunError):
    """The run is done, and not good enough; its outcome has the losses."""

    def __init__(self, message: str, before: Scores, after: Scores) -> None:
        super().__init__(Reason.QUALITY_GATE_FAILED, message, _REMEDY)
        self._losses = {"loss_before": before.loss, "loss_after": after.loss}

    def outcome(self, step: int = 0) -> Outcome:
        """The error as the run's outcome."""
        return super().outcome(step).model_copy(update=self._losses)


def check_gate(evaluation: Evaluation, before: Scores | None, after: Scores | None) -> None:
    """Judge the scores of what is to be published.

    Raises:
        RunError: QualityGateFailed, with every bound that does not hold.
    """
    if evaluation.gate is None or before is None or after is None:
        return
    failed = list(_failures(evaluation.gate, Goal.of(evaluation), before, after))
    if failed:
        raise GateError(f"evaluation.gate: {'; '.join(failed)}", before, after)


def check_measured(gate: Gate | None, before: Scores) -> None:
    """Look in the evaluation before training whether the gate can be judged at all.

    Raises:
        RunError: InvalidConfiguration.
    """
    if gate is not None and gate.min_accuracy is not None:
        Goal(ACCURACY, field="evaluation.gate.minAccuracy").value(before)


def _failures(gate: Gate, goal: Goal, before: Scores, after: Scores) -> Iterator[str]:
    """A sentence for each bound that does not hold, written so that a number which is none holds no bound."""
    was, now = goal.value(before), goal.value(after)
    if gate.must_improve and not goal.better(now, was):
        yield f"the {goal.name} was {was:.6g} before training and is {now:.6g}, and mustImprove is true"
    if gate.max_loss is not None and not after.loss <= float(gate.max_loss):
        yield f"the loss is {after.loss:.6g}, over maxLoss {gate.max_loss}"
    if gate.min_accuracy is not None and not after.metrics[ACCURACY] >= float(gate.min_accuracy):
        yield f"the accuracy is {after.metrics[ACCURACY]:.6g}, under minAccuracy {gate.min_accuracy}"
