"""The loss: negative log-likelihood of the trained tokens, in nats.

Logits are computed only at positions that some row of the batch trains. The output head is a large part of a small
model's work and of everybody's memory, and the rest of its output would be thrown away.
"""

import inspect
from typing import Any

import torch
from torch.nn import functional

from finetune_trainer.data.collate import Batch
from finetune_trainer.data.tokens import IGNORED
from finetune_trainer.fast import loss as chunked
from finetune_trainer.fast.head import head_of


def trained_logits(model: Any, batch: Batch, *, sparse_head: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model on a batch.

    Args:
        model: A causal language model, wrapped or not.
        batch: Shape [rows, length] each; packs are one row.
        sparse_head: Whether the model's forward takes `logits_to_keep` (see `has_sparse_head`).

    Returns:
        Logits in float32, [rows, positions, vocabulary], and the token to predict there, [rows, positions], with
        IGNORED where only another row of the batch is trained.
    """
    targets = batch["labels"][:, 1:]
    positions = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    inputs = {**{name: tensor for name, tensor in batch.items() if name != "labels"}, "use_cache": False}
    logits = model(**inputs, logits_to_keep=positions).logits if sparse_head else model(**inputs).logits[:, positions]
    return logits.float(), targets[:, positions]


def nll_sum(model: Any, batch: Batch, *, sparse_head: bool = True, smoothing: float = 0.0) -> torch.Tensor:
    """Sum of the NLL of all trained tokens of a batch; a scalar with a gradient.

    `smoothing` is torch's `label_smoothing`: that share of each target is spread over the whole vocabulary.
    """
    head = head_of(model)
    if head is not None:
        with head.hidden():
            hidden, targets = trained_logits(model, batch, sparse_head=sparse_head)
        return chunked.nll_sum(hidden, head.weight, targets, IGNORED, smoothing)
    logits, targets = trained_logits(model, batch, sparse_head=sparse_head)
    return functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )


def has_sparse_head(model: Any) -> bool:
    """Whether the model computes logits at chosen positions only."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters
