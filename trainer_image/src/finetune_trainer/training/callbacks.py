"""What happens beside the training loop: progress, a stop between two steps, checkpoints to storage."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from finetune_api.names import ActiveReason
from finetune_trainer.publish import CheckpointStore
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


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Brings each checkpoint to storage."""

    def __init__(self, store: CheckpointStore, keep: int, reporter: Reporter, processes: Processes) -> None:
        self._store = store
        self._keep = keep
        self._reporter = reporter
        self._processes = processes

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Upload the checkpoint that the Trainer has just written, then delete old ones."""
        self._processes.barrier()  # every process writes its own random state into the folder
        step = state.global_step
        if self._processes.first:
            folder = Path(args.output_dir) / f"checkpoint-{step}"
            # A pickle that nobody reads; peft's empty model card.
            for needless in ("training_args.bin", "README.md"):
                (folder / needless).unlink(missing_ok=True)
            self._store.save(folder, step)
            self._store.prune(self._keep)
        self._processes.barrier()
        self._reporter.saved_step = step
