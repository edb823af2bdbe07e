"""SequenceClassification: one label a text. An item is a row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.collate import Batch
from finetune_trainer.tasks.collate import TargetCollator
from finetune_trainer.tasks.forward import forward
from finetune_trainer.tasks.labels import confusion_scores, confusion_sums, label_settings, nll
from finetune_trainer.tasks.task import Sums
from finetune_trainer.training.scores import Scores


@dataclass(frozen=True)
class SequenceClassification:
    """The task; a batch's labels have shape [rows, 1]."""

    pad_id: int
    segments: bool
    labels: Sequence[str]
    kind = TaskType.SEQUENCE_CLASSIFICATION
    peft_type = "SEQ_CLS"
    auto_class = AutoModelForSequenceClassification

    @property
    def settings(self) -> dict[str, Any]:
        """The labels, and the pad: a decoder finds a row's last token by it."""
        return {
            **label_settings(self.labels),
            "problem_type": "single_label_classification",
            "pad_token_id": self.pad_id,
        }

    @property
    def collator(self) -> Callable[[Sequence[Any]], Batch]:
        """Pads on the right."""
        return TargetCollator(self.pad_id, self.segments)

    def logits(self, model: Any, batch: Batch) -> torch.Tensor:
        """Of the labels, [rows, labels]."""
        return torch.as_tensor(forward(model, batch).logits).float()

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """Sum over the rows of the NLL of their labels."""
        return nll(self.logits(model, batch), batch["labels"][:, 0])

    def sums(self, model: Any, batch: Batch, _rows: Sequence[Any]) -> Sums:
        """Loss and confusion counts."""
        return confusion_sums(self.logits(model, batch), batch["labels"][:, 0])

    def scores(self, sums: Sums, items: int) -> Scores:
        """Mean loss per row, accuracy, macro F1, confusion counts."""
        return confusion_scores(sums, items, self.labels)
