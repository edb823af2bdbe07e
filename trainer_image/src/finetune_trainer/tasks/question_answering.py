"""QuestionAnswering: the span of a context. An item is an end of the answer, two a row.

A question whose context was split into windows is several rows to training. To an evaluation it is one: its answer is
that of the window which is surest of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.collate import Batch
from finetune_trainer.data.tokens import TokenRow
from finetune_trainer.tasks.answers import Told
from finetune_trainer.tasks.collate import TargetCollator
from finetune_trainer.tasks.forward import forward
from finetune_trainer.tasks.labels import nll
from finetune_trainer.tasks.questions import Question, rows_of
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
        """Pads on the right; of questions, the windows of all of them."""
        pad = TargetCollator(self.pad_id, self.segments)
        return lambda rows: pad(rows_of(rows))

    def logits(self, model: Any, batch: Batch) -> torch.Tensor:
        """Of each token as first and last of the answer, [rows, 2, tokens]."""
        output = forward(model, batch)
        return torch.stack([output.start_logits, output.end_logits], dim=1).float()

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """Sum of the NLL of both ends; no probability goes to pads."""
        return nll(self._without_pads(self.logits(model, batch), batch), batch["labels"])

    def sums(self, model: Any, batch: Batch, rows: Sequence[Question | TokenRow]) -> Sums:
        """`[NLL, answers that match exactly, sum of token F1, questions]`; as many windows at a time as questions."""
        loss, told, windows = 0.0, [], rows_of(rows)
        for begin in range(0, len(windows), len(rows)):
            piece = {name: tensor[begin : begin + len(rows)] for name, tensor in batch.items()}
            logits = self._without_pads(self.logits(model, piece), piece)
            loss += float(nll(logits, piece["labels"]))
            for window, (starts, ends) in zip(windows[begin : begin + len(rows)], logits.cpu().numpy(), strict=True):
                told.append(Told.of(window.details, starts[: len(window)], ends[: len(window)]))
        answers = iter(told)
        best = [max((next(answers) for _ in rows_of([row])), key=lambda answer: answer.score) for row in rows]
        return np.array([loss, sum(each.exact for each in best), sum(each.f1 for each in best), len(rows)])

    def scores(self, sums: Sums, items: int) -> Scores:
        """Mean loss per end of all windows, exact match and token F1 over questions."""
        loss, exact, f1, questions = map(float, sums)
        return Scores(loss / items, {"exactMatch": exact / questions, "f1": f1 / questions})

    def _without_pads(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return logits.masked_fill(batch["attention_mask"][:, None] == 0, torch.finfo(logits.dtype).min)
