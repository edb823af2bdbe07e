"""The loss: negative log-likelihood of the trained tokens, in nats.

Logits are computed only at positions that some row of the batch trains. The output head is a large part of a small
model's work and of everybody's memory, and the rest of its output would be thrown away.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from finetune_trainer.data.collate import Batch
from finetune_trainer.data.packing import Pack
from finetune_trainer.data.tokens import IGNORED, TokenRow
from finetune_trainer.fast import loss as chunked
from finetune_trainer.fast.head import head_of
from finetune_trainer.fast.sharding import is_whole_model, without_gradient
from finetune_trainer.training.processes import Processes


class CutShort(Exception):  # noqa: N818 - no error
    """Somebody wanted the evaluation to end before its end."""


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


def nll_sum(model: Any, batch: Batch, *, sparse_head: bool = True) -> torch.Tensor:
    """Sum of the NLL of all trained tokens of a batch; a scalar with a gradient."""
    head = head_of(model)
    if head is not None:
        with head.hidden():
            hidden, targets = trained_logits(model, batch, sparse_head=sparse_head)
        return chunked.nll_sum(hidden, head.weight, targets, IGNORED)
    logits, targets = trained_logits(model, batch, sparse_head=sparse_head)
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def has_sparse_head(model: Any) -> bool:
    """Whether the model computes logits at chosen positions only."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def mean_nll(
    model: Any,
    rows: Sequence[TokenRow] | Sequence[Pack],
    collator: Callable[[Any], Batch],
    batch_size: int,
    processes: Processes,
    on_rows: Callable[[int], None] = lambda _: None,
    cut: Callable[[], bool] = lambda: False,
) -> float:
    """Mean NLL per trained token over all rows, exactly: every token weighs the same, however rows are batched.

    The rows, or packs of rows, are shared among the processes; all get the same result. The model is left in the mode
    it was in. `on_rows` hears after each batch how many rows (or packs) of this process are done.

    Raises:
        CutShort: In all processes, once `cut` was true in one of them.
    """
    sparse_head = has_sparse_head(model)
    together = not is_whole_model(model)
    # Rows of similar length together: less padding, the same sum.
    ordered = sorted(rows, key=len, reverse=True)
    mine = ordered[processes.rank :: processes.world]
    most = -(-len(rows) // processes.world) if together else len(mine)
    was_training = model.training
    model.eval()
    try:
        total = 0.0
        for start in range(0, most, batch_size):
            if processes.any(cut()) if together else cut():
                break
            piece = mine[start : start + batch_size]
            batch = collator(piece or ordered[-1:])  # for nothing but to take part in the others' forward
            on_device = {name: tensor.to(processes.device()) for name, tensor in batch.items()}
            with without_gradient(model):
                found = float(nll_sum(model, on_device, sparse_head=sparse_head))
            total += found if piece else 0.0
            on_rows(min(start + batch_size, len(mine)))
    finally:
        model.train(was_training)
    if processes.any(cut()):
        raise CutShort
    return processes.sum(total) / sum(row.trained for row in rows)
