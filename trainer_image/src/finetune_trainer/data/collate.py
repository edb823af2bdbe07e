"""Token rows or packs -> one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from finetune_trainer.data.packing import Pack
from finetune_trainer.data.tokens import IGNORED, TokenRow

Batch = dict[str, torch.Tensor]
"""input_ids, labels, and attention_mask (rows) or position_ids (packs), each int64 of shape [sequences, length]."""


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
            input_ids[i, : len(row)] = tensor(row.input_ids)
            attention_mask[i, : len(row)] = 1
            labels[i, : len(row)] = tensor(row.labels)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def tensor(values: NDArray[np.int32]) -> torch.Tensor:
    """A copy as int64; the array may be a read-only map of a file."""
    return torch.from_numpy(values.astype(np.int64))


class PackCollator:
    """Writes all packs one after another into a single sequence, without any pad."""

    def __call__(self, packs: Sequence[Pack]) -> Batch:
        """Build one batch of shape [1, tokens].

        Positions that start anew tell the model where a row begins: transformers then lets no row see another, as long
        as there is no attention mask and no cache. The first token of a row is nobody's to predict.
        """
        rows = list(chain.from_iterable(pack.rows for pack in packs))
        labels = torch.cat([tensor(row.labels) for row in rows])
        positions = torch.cat([torch.arange(len(row)) for row in rows])
        labels[positions == 0] = IGNORED
        return {
            "input_ids": torch.cat([tensor(row.input_ids) for row in rows])[None],
            "position_ids": positions[None],
            "labels": labels[None],
        }
