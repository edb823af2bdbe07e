"""Rows with targets -> one batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetune_trainer.data.collate import Batch, tensor
from finetune_trainer.data.tokens import IGNORED, TokenRow


@dataclass(frozen=True)
class TargetCollator:
    """Pads on the right, tokens and targets each to the longest of the batch."""

    pad_id: int
    """The model's own: some look for it to find a row's last token."""
    segments: bool
    """Whether the model is told which tokens are of a second text."""

    def __call__(self, rows: Sequence[TokenRow]) -> Batch:
        """Build one batch: input_ids, attention_mask, maybe token_type_ids [rows, tokens]; labels [rows, targets]."""
        length, targets = max(len(row) for row in rows), max(len(row.labels) for row in rows)
        batch = {
            "input_ids": torch.full((len(rows), length), self.pad_id),
            "attention_mask": torch.zeros((len(rows), length), dtype=torch.int64),
            "labels": torch.full((len(rows), targets), IGNORED),
        }
        if self.segments:
            batch["token_type_ids"] = torch.zeros((len(rows), length), dtype=torch.int64)
        for i, row in enumerate(rows):
            batch["input_ids"][i, : len(row)] = tensor(row.input_ids)
            batch["attention_mask"][i, : len(row)] = 1
            batch["labels"][i, : len(row.labels)] = tensor(row.labels)
            if self.segments and row.segments is not None:
                batch["token_type_ids"][i, : len(row)] = torch.from_numpy(row.segments)
        return batch
