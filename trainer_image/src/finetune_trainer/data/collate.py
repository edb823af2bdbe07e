"""Token rows of different length -> one padded batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetune_trainer.data.tokens import IGNORED, TokenRow

Batch = dict[str, torch.Tensor]
"""input_ids, attention_mask and labels, each int64 of shape [rows, longest]."""


@dataclass(frozen=True)
class Collator:
    """Pads on the right."""

    pad_id: int
    """Only a filler. Pads are told by position, never by this id: in many models it is the end-of-turn token."""

    def __call__(self, rows: Sequence[TokenRow]) -> Batch:
        """Build one batch; pads get attention 0 and the label IGNORED."""
        shape = (len(rows), max(len(row) for row in rows))
        input_ids = torch.full(shape, self.pad_id)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, IGNORED)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = torch.from_numpy(row.input_ids)
            attention_mask[i, : len(row)] = 1
            labels[i, : len(row)] = torch.from_numpy(row.labels)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
