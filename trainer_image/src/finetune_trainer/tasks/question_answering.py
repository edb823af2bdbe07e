"""QuestionAnswering: the span of a context. An item is an end of the answer, two a row."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.collate import Batch
from finetune_trainer.data.tokens import TokenRow
from finetune_trainer.tasks.answers import best_span, exact_match, token_f1
from finetune_trainer.tasks.collate import TargetCollator
from finetune_trainer.tasks.forward import forward
from finetune_trainer.tasks.labels import nll
from finetune_trainer.tasks.task import Sums
from finetune_trainer.training.scores import Scores

ENDS = 2
"""Logits a token: of being the answer's first, and its last."""


@dataclass(frozen=True)
class QuestionAnswering:
    """The task; a batch's labels have shape [rows, 2]."""

    pad_id: int
    segments: bool
    kind = TaskType.QUESTION_ANSWERING
    peft_type = "QUESTION_ANS"
    auto_class = AutoModelForQuestionAnswering

    @property
    def settings(self) -> dict[str, Any]:
        """Two logits a token, whatever a checkpoint's classifier had."""
        return {"num_labels": ENDS}

    @property
    def collator(self) -> Callable[[Sequence[Any]], Batch]:
        """Pads on the right."""
        return TargetCollator(self.pad_id, self.segments)

    def logits(self, model: Any, batch: Batch) -> torch.Tensor:
        """Of each token as first and last of the answer, [rows, 2, tokens]."""
        output = forward(model, batch)
        return torch.stack([output.start_logits, output.end_logits], dim=1).float()

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """Sum of the NLL of both ends; no probability goes to pads."""
        return nll(self._without_pads(self.logits(model, batch), batch), batch["labels"])

    def sums(self, model: Any, batch: Batch, rows: Sequence[TokenRow]) -> Sums:
        """`[NLL, answers that match exactly, sum of token F1]`."""
        logits = self._without_pads(self.logits(model, batch), batch)
        found = np.zeros(2)
        for row, (starts, ends) in zip(rows, logits.cpu().numpy(), strict=True):
            details = json.loads(row.details)
            told = best_span(starts[: len(row)], ends[: len(row)], details["spans"], details["context"])
            found += [
                max(exact_match(told, answer) for answer in details["answers"]),
                max(token_f1(told, answer) for answer in details["answers"]),
            ]
        return np.array([float(nll(logits, batch["labels"])), *found])

    def scores(self, sums: Sums, items: int) -> Scores:
        """Mean loss per end, exact match and token F1 over rows."""
        rows = items / ENDS
        return Scores(float(sums[0]) / items, {"exactMatch": float(sums[1]) / rows, "f1": float(sums[2]) / rows})

    def _without_pads(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return logits.masked_fill(batch["attention_mask"][:, None] == 0, torch.finfo(logits.dtype).min)
