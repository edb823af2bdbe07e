"""Does this model keep packed rows apart? Asked of the model itself, with real rows, before anything is trained.

A model that takes the positions as they come but attends over the whole sequence, or that ignores them, would be
trained on answers to other rows' questions, in silence.
"""

from collections.abc import Sequence
from typing import Any

import torch

from finetune_api.outcome import Reason
from finetune_trainer.data.collate import Collator, PackCollator
from finetune_trainer.data.packing import Pack
from finetune_trainer.data.tokens import TokenRow
from finetune_trainer.errors import RunError
from finetune_trainer.fast.sharding import without_gradient

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
COARSE_TOLERANCE = 5e-2
"""Largest relative difference (L2 norm) of packed and unpacked logits, by dtype; sums of another order differ by
rounding only, and a row that sees its neighbour differs by a good part of its norm."""


def packing_error(model: Any, rows: Sequence[TokenRow], device: torch.device) -> float:
    """Pack the two shortest rows and return the relative difference of their logits from those of the rows alone."""
    pair = tuple(rows[number] for number in sorted(range(len(rows)), key=lambda number: len(rows[number]))[:2])
    pair = pair if len(pair) == 2 else pair * 2
    was_training = model.training
    model.eval()
    try:
        with without_gradient(model):
            alone = torch.cat([_logits(model, Collator(0)([row]), device) for row in pair])
            packed = _logits(model, PackCollator()([Pack(pair)]), device)
    finally:
        model.train(was_training)
    return float((packed - alone).norm() / alone.norm())


def tolerance(model: Any) -> float:
    """What `packing_error` may be for a model of this dtype."""
    return TOLERANCE.get(model.get_input_embeddings().weight.dtype, COARSE_TOLERANCE)


def check_isolation(model: Any, rows: Sequence[TokenRow], device: torch.device) -> str:
    """Refuse to pack where rows see each other; return a sentence with the numbers.

    Raises:
        RunError: InvalidConfiguration with the numbers.
    """
    error, allowed = packing_error(model, rows, device), tolerance(model)
    if not error <= allowed:
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"training.packing: this model does not keep packed rows apart: the logits of two rows differ by "
            f"{error:.2g} (relative) from those of the rows alone, and {allowed:.0e} is rounding",
            "Set training.packing to false.",
        )
    return f"packed rows do not see each other: their logits differ by {error:.1e} (relative) from those of rows alone"


def _logits(model: Any, batch: dict[str, torch.Tensor], device: torch.device) -> torch.Tensor:
    """Logits of a batch of one sequence without pads, float32, [tokens, vocabulary]."""
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
    return torch.as_tensor(model(**inputs, use_cache=False).logits[0]).float()
