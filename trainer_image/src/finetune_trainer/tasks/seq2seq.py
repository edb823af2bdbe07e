"""Seq2SeqLM: a target from a source, by an encoder and a decoder. An item is a token of the target."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.collate import Batch
from finetune_trainer.data.tokens import IGNORED
from finetune_trainer.tasks.collate import TargetCollator
from finetune_trainer.tasks.forward import base_of, forward
from finetune_trainer.tasks.labels import nll
from finetune_trainer.tasks.task import Sums
from finetune_trainer.training.scores import Scores


@dataclass(frozen=True)
class Seq2SeqLM:
    """The task; a batch's labels have shape [rows, target tokens]."""

    pad_id: int
    kind = TaskType.SEQ2SEQ_LM
    peft_type = "SEQ_2_SEQ_LM"
    auto_class = AutoModelForSeq2SeqLM

    @property
    def settings(self) -> dict[str, Any]:
        """The model is taken as it is."""
        return {}

    @property
    def collator(self) -> Callable[[Sequence[Any]], Batch]:
        """Pads on the right."""
        return TargetCollator(self.pad_id, segments=False)

    def logits(self, model: Any, batch: Batch) -> torch.Tensor:
        """Of the target's tokens, each after the true ones before it, [rows, target tokens, vocabulary]."""
        shifted = base_of(model).prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        return torch.as_tensor(forward(model, batch, decoder_input_ids=shifted).logits).float()

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """Sum of the NLL of the targets' tokens."""
        return nll(self.logits(model, batch), batch["labels"])

    def sums(self, model: Any, batch: Batch, _rows: Sequence[Any]) -> Sums:
        """`[NLL, tokens predicted right]`."""
        logits, targets = self.logits(model, batch), batch["labels"]
        right = ((logits.argmax(dim=-1) == targets) & (targets != IGNORED)).sum()
        return np.array([float(nll(logits, targets)), float(right)])

    def scores(self, sums: Sums, items: int) -> Scores:
        """Mean loss per token of the target, and the share of tokens that the model would have written there."""
        return Scores(float(sums[0]) / items, {"tokenAccuracy": float(sums[1]) / items})
