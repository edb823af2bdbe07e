"""What happens beside the training loop: progress, a stop between two steps, a checkpoint by the clock."""

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from finetune_api.names import ActiveReason
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.reporter import Reporter
from finetune_trainer.training.stop import StopSwitch


class ReportCallback(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Tells the reporter how far training is."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._substeps = 0

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Start the session's clock."""
        self._reporter.start_training(state.global_step, state.max_steps, state.log_history)

    def on_substep_end(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Show progress within a long step."""
        self._substeps += 1
        self._reporter.advance(state.global_step, state.epoch or 0.0, self._substeps / args.gradient_accumulation_steps)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Show a finished step."""
        self._substeps = 0
        self._reporter.advance(state.global_step, state.epoch or 0.0)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Record numbers; the Trainer's summary at the end (`train_loss`) covers one session only and is left out."""
        if logs and "train_loss" not in logs:
            self._reporter.metrics(state.global_step, logs)

    def on_evaluate(self, _args: Any, _state: Any, _control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Say the loss of an evaluation between two steps."""
        self._reporter.phase(ActiveReason.TRAINING, f"evaluation loss {metrics['eval_loss']:.4f}")


class StopCallback(TrainerCallback):  # type: ignore[misc]
    """Ends training after the step in which any process was asked to stop, with a checkpoint."""

    def __init__(self, stop: StopSwitch, processes: Processes) -> None:
        self._stop = stop
        self._processes = processes

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        """Agree with all processes: one that saves alone would wait for the others for ever."""
        if self._processes.any(self._stop.requested):
            self._stop.requested = True
            control.should_save = True
            control.should_evaluate = False
            control.should_training_stop = True


class TimedCheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint when the last one is `seconds` old, beside those that go by steps."""

    def __init__(self, seconds: int, processes: Processes, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._processes = processes
        self._clock = clock
        self._saved = clock()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Count from here: what was restored is as good as saved."""
        self._saved = self._clock()

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        """The first process's clock decides for all."""
        due = self._processes.first and self._clock() - self._saved >= self._seconds
        if self._processes.any(due):
            control.should_save = True

    def on_save(self, *_: Any, **__: Any) -> None:
        """Count from the newest checkpoint, whoever asked for it."""
        self._saved = self._clock()
