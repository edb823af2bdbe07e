"""TokenClassification: one label a word. An item is the first token of a word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForTokenClassification

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.collate import Batch
from finetune_trainer.tasks.collate import TargetCollator
from finetune_trainer.tasks.forward import forward
from finetune_trainer.tasks.labels import confusion_scores, confusion_sums, label_settings, nll
from finetune_trainer.tasks.task import Sums
from finetune_trainer.training.scores import Scores


@dataclass(frozen=True)
class TokenClassification:
    """The task; a batch's labels have shape [rows, tokens]."""

    pad_id: int
    segments: bool
    labels: Sequence[str]
    kind = TaskType.TOKEN_CLASSIFICATION
    peft_type = "TOKEN_CLS"
    auto_class = AutoModelForTokenClassification

    @property
    def settings(self) -> dict[str, Any]:
        """The labels."""
        return label_settings(self.labels)

    @property
    def collator(self) -> Callable[[Sequence[Any]], Batch]:
        """Pads on the right."""
        return TargetCollator(self.pad_id, self.segments)

    def logits(self, model: Any, batch: Batch) -> torch.Tensor:
        """Of the labels, [rows, tokens, labels]."""
        return torch.as_tensor(forward(model, batch).logits).float()

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """Sum over the words of the NLL of their labels."""
        return nll(self.logits(model, batch), batch["labels"])

    def sums(self, model: Any, batch: Batch, _rows: Sequence[Any]) -> Sums:
        """Loss and confusion counts."""
        return confusion_sums(self.logits(model, batch), batch["labels"])

    def scores(self, sums: Sums, items: int) -> Scores:
        """Mean loss per word, accuracy and macro F1 over words (not over entities), confusion counts."""
        return confusion_scores(sums, items, self.labels)
