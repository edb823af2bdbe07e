"""CausalLM: go on with a text or chat. An item is a trained token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.collate import Batch, Collator
from finetune_trainer.tasks.forward import unwrapped
from finetune_trainer.tasks.task import Sums
from finetune_trainer.training.loss import has_sparse_head, nll_sum, trained_logits
from finetune_trainer.training.scores import Scores


@dataclass(frozen=True)
class CausalLM:
    """The task."""

    pad_id: int = 0
    smoothing: float = 0.0
    """Of the labels, while training."""
    kind = TaskType.CAUSAL_LM
    peft_type = "CAUSAL_LM"
    auto_class = AutoModelForCausalLM

    @property
    def settings(self) -> dict[str, Any]:
        """The model is taken as it is."""
        return {}

    @property
    def collator(self) -> Callable[[Sequence[Any]], Batch]:
        """Pads on the right."""
        return Collator(self.pad_id)

    def logits(self, model: Any, batch: Batch) -> torch.Tensor:
        """Of the trained positions, [rows, positions, vocabulary]."""
        return trained_logits(model, batch, sparse_head=has_sparse_head(unwrapped(model)))[0]

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """Sum of the NLL of all trained tokens."""
        return nll_sum(model, batch, sparse_head=has_sparse_head(unwrapped(model)), smoothing=self.smoothing)

    def sums(self, model: Any, batch: Batch, _rows: Sequence[Any]) -> Sums:
        """The loss alone: `[NLL]`."""
        return np.array([float(nll_sum(model, batch, sparse_head=has_sparse_head(unwrapped(model))))])

    def scores(self, sums: Sums, items: int) -> Scores:
        """Mean NLL per trained token."""
        return Scores(float(sums[0]) / items)
