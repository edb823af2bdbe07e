"""transformers' Trainer with our loss: token-exact, checked at every micro-batch, and the same for evaluation."""

import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer

from finetune_api.outcome import Reason
from finetune_trainer.data.collate import Batch
from finetune_trainer.errors import RunError
from finetune_trainer.training.loss import has_sparse_head, mean_nll, nll_sum
from finetune_trainer.training.processes import Processes


class SupervisedTrainer(Trainer):  # type: ignore[misc]  # transformers publishes no types
    """The loop is the Trainer's own; only the two losses are ours."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        processes: Processes,
        evaluation_batch_size: int,
        penalty: Callable[[Any], torch.Tensor] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._penalty = penalty
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the trained tokens of the whole optimizer step
        self._processes = processes
        self._evaluation_batch_size = evaluation_batch_size
        self._sparse_head = has_sparse_head(arguments["model"])

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Compute this micro-batch's share of the step's mean NLL per trained token.

        `num_items_in_batch` counts the trained tokens of the optimizer step over all processes. DDP averages gradients
        over the processes, so the share is multiplied by their number.

        Raises:
            RunError: NonFiniteLoss, before the optimizer sees it: the weights and the last checkpoint stay good.
        """
        if return_outputs or num_items_in_batch is None:
            raise ValueError("the loss needs the number of trained tokens in the step, and gives no outputs")
        loss = nll_sum(model, inputs, sparse_head=self._sparse_head) / num_items_in_batch * self._processes.world
        if self._penalty:
            # Once an optimizer step, and in every process alike.
            loss = loss + self._penalty(self.model) / self.current_gradient_accumulation_steps
        if not torch.isfinite(loss):
            step = self.state.global_step + 1
            raise RunError(
                Reason.NON_FINITE_LOSS,
                f"the loss of step {step} is {loss.item()} (learning rate {self._get_learning_rate():.3g})",
                "Lower training.learningRate or training.maxGradientNorm, or look for extreme rows in the dataset.",
            )
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the mean NLL per trained token of the held-out rows, in the middle of training."""
        loss = mean_nll(self.model, self.eval_dataset, self.data_collator, self._evaluation_batch_size, self._processes)
        metrics = {"eval_loss": loss, "eval_perplexity": math.exp(min(loss, 100.0))}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
