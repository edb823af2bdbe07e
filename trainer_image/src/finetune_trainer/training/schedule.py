"""When the held-out rows are looked at and when a checkpoint is saved: by steps, and by epochs."""

from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from finetune_api.run import RunFile


@dataclass(frozen=True)
class Schedule:
    """Every so many optimizer steps, or epochs; never where neither is set."""

    steps: int | None = None
    epochs: int | None = None
    delay: float = 0
    """Not before this step, or epoch."""

    def due(self, step: int, epoch: float, last_step: int) -> bool:
        """Whether the moment after `step` is one of the schedule; the end of the run always is."""
        if self.steps:
            return step >= self.delay and (step % self.steps == 0 or step >= last_step)
        if self.epochs:
            # The Trainer counts epochs in shares of their batches: at the end of one the number is whole, exactly.
            return epoch >= self.delay and (epoch % self.epochs == 0 or step >= last_step)
        return False


def evaluations(run: RunFile) -> Schedule:
    """When this run evaluates between its first step and its last."""
    if run.dataset.evaluation is None:
        return Schedule()
    delay = float(run.training.extra_arguments.get("eval_delay", "0"))
    return Schedule(run.evaluation.every_steps, run.evaluation.every_epochs, delay)


class ScheduleCallback(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Asks the Trainer for an evaluation or a checkpoint when it is due, beside the checkpoints that go by steps."""

    def __init__(self, evaluation: Schedule, checkpoint: Schedule) -> None:
        self._evaluation = evaluation
        self._checkpoint = checkpoint

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask; all processes count the same steps."""
        now = state.global_step, state.epoch or 0.0, state.max_steps
        control.should_evaluate = control.should_evaluate or self._evaluation.due(*now)
        control.should_save = control.should_save or self._checkpoint.due(*now)
