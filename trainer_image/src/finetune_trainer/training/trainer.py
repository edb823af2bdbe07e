"""transformers' Trainer with our loss: exact by item, checked at every micro-batch, and the same for evaluation."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from finetune_trainer.data.collate import Batch
from finetune_trainer.data.shards import Rows
from finetune_trainer.errors import RunError
from finetune_trainer.methods.groups import is_vector, regroup
from finetune_trainer.sharding.trainer import PortableTrainer
from finetune_trainer.tasks.measure import measure
from finetune_trainer.tasks.task import Task
from finetune_trainer.training.goal import logged
from finetune_trainer.training.guard import check_evaluation, non_finite
from finetune_trainer.training.overflow import MOST, Overflows
from finetune_trainer.training.saving import Saver
from finetune_trainer.training.session import Session
from finetune_trainer.training.stop import Stopped
from finetune_trainer.training.sums import CutShort


class SupervisedTrainer(PortableTrainer):
    """The loop is the Trainer's own; ours are losses, learning rates of parameters, and how checkpoints are saved."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        session: Session,
        saver: Saver,
        evaluation_batch_size: int,
        rows: Rows,
        task: Task,
        penalty: Callable[[Any], torch.Tensor] | None = None,
        measure: Callable[[Any], Mapping[str, float]] = lambda _: {},
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._stop, self._reporter, self._processes = session.stop, session.reporter, session.processes
        self.saver = saver
        self._rows = rows
        self._penalty = penalty
        self._measure = measure
        self.step_batches: list[Batch] = []
        """Of the step under way, or of the last one."""
        self._overflows = Overflows()
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the trained tokens of the whole optimizer step
        self._evaluation_batch_size = evaluation_batch_size
        self._task = task

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        """Train, and wait for the last checkpoint."""
        with self.saver.finished():
            return super().train(*arguments, **keywords)

    def create_optimizer(self, model: Any = None) -> Any:
        """Split the Trainer's groups where the spec wants more of them.

        Raises:
            RunError: InvalidConfiguration for a group of modules that are not trained.
        """
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh and (self.args.parameter_groups or self.args.lora_plus_ratio != 1):
            names = self.get_decay_parameter_names(self.model)
            regroup(optimizer, self.model, self.args.parameter_groups, self.args.lora_plus_ratio, names)
        return optimizer

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Weight decay is for matrices: no norm, no bias, as transformers has it, nor DoRA's magnitudes."""
        vectors = {name for name, parameter in model.named_parameters() if is_vector(parameter)}
        return [name for name in super().get_decay_parameter_names(model) if name not in vectors]

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Compute this micro-batch's share of the step's mean loss per trained token (or other item of the task).

        `num_items_in_batch` counts the trained items of the optimizer step over all processes. DDP averages gradients
        over the processes, so the share is multiplied by their number.

        Raises:
            RunError: NonFiniteLoss, before the optimizer sees it: the weights and the last checkpoint stay good.
        """
        if return_outputs or num_items_in_batch is None:
            raise ValueError("the loss needs the number of trained tokens in the step, and gives no outputs")
        loss = self._task.loss_sum(model, inputs) / num_items_in_batch * self._processes.world
        if self._penalty:
            # Once an optimizer step, and in every process alike.
            loss = loss + self._penalty(self.model) / self.current_gradient_accumulation_steps
        if not torch.isfinite(loss):
            raise self._non_finite("loss", loss.item(), [inputs])
        return loss

    def get_batch_samples(self, *arguments: Any, **keywords: Any) -> Any:
        """Remember the micro-batches of the step, to name their rows when its gradient is no number.

        Raises:
            OSError: The last checkpoint could not be written, as has come out meanwhile.
        """
        self.saver.check()
        samples = super().get_batch_samples(*arguments, **keywords)
        self.step_batches = samples[0]
        return samples

    def _get_grad_norm(self, *arguments: Any, **keywords: Any) -> Any:
        """Look at the gradient norm before the optimizer does; None, which is not logged, where float16 overflowed.

        Raises:
            RunError: NonFiniteLoss; the weights and the last checkpoint stay good.
        """
        norm = super()._get_grad_norm(*arguments, **keywords)
        if math.isfinite(norm):
            self._overflows.clear()
            return norm
        scaler = self.accelerator.scaler
        if not self._overflows.count(scaler, self.optimizer):
            raise self._non_finite("gradient norm", float(norm), self.step_batches)
        before = self._overflows.in_a_row - 1
        if before + 1 >= min(MOST, self.state.max_steps):
            raise self._non_finite("gradient norm", float(norm), self.step_batches, f" and of the {before} before it")
        self._reporter.say(
            f"step {self.state.global_step + 1} is left out: its gradient overflowed float16; "
            f"the loss is scaled by {scaler.get_scale() * scaler.get_backoff_factor():g} from here on"
        )
        return None

    def _non_finite(self, what: str, value: float, batches: list[Batch], more: str = "") -> RunError:
        step, rate = self.state.global_step + 1, self._get_learning_rate()
        return non_finite(f"the {what} of step {step}{more}", value, batches, self._rows, rate)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, as the Trainer would; most runs train on while it is written."""
        self.saver.save(self, partial(super()._save_checkpoint, model, trial))

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the model on the held-out rows, in the middle of training.

        Raises:
            Stopped: The run was asked to stop, and its checkpoint is saved.
        """
        try:
            scores = measure(
                self._task,
                self.model,
                self.eval_dataset,
                self.data_collator,
                self._evaluation_batch_size,
                self._processes,
                lambda done: self._reporter.chatter(f"evaluating: {done} rows done"),
                lambda: self._stop.requested,
            )
        except CutShort:
            self._save_checkpoint(self.model, None)
            self.callback_handler.on_save(self.args, self.state, self.control)
            raise Stopped from None
        check_evaluation(scores.loss, f"step {self.state.global_step}")
        scores = scores.beside(self._measure(self.model))
        metrics = logged(scores)
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
