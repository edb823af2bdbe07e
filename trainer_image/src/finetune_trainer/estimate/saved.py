"""What one forward pass keeps for its backward pass: the real code runs on shapes, and every tensor kept is counted."""

from contextlib import ExitStack
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from finetune_trainer.estimate.skeleton import imagine
from finetune_trainer.fast import attention, lora
from finetune_trainer.fast.gemm import onednn_pays
from finetune_trainer.fast.switch import base_of
from finetune_trainer.training.loss import has_sparse_head


def saved_bytes(
    model: Any, rows: int, length: int, positions: int, *, dtype: torch.dtype, fast: bool, packed: bool
) -> int:
    """Bytes kept up to the head's input; the head's own are the caller's to add.

    Args:
        model: From `skeleton`; it is used up.
        rows: Sequences of the micro-batch.
        length: Tokens of each.
        positions: Of each, those whose logits are wanted.
        dtype: What is computed in.
        fast: Whether the fast paths are on.
        packed: Whether a sequence is a pack.
    """
    onednn_pays()  # it asks with real numbers, once
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    imagine(model, mode)
    model.train()
    if fast:
        lora.convert(model)
    kept: dict[int, tuple[int, Any]] = {}  # the storage is held on to, so that its address stays its own
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}  # noqa: SLF001

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:  # noqa: SLF001
            kept[storage._cdata] = (storage.nbytes(), storage)  # noqa: SLF001
        return tensor

    base = base_of(model)
    head, hidden = base.get_output_embeddings(), torch.nn.Identity()
    with ExitStack() as stack:
        stack.enter_context(mode)
        base.set_output_embeddings(hidden)
        stack.callback(base.set_output_embeddings, head)
        stack.enter_context(torch.autocast("cpu", dtype, enabled=dtype is not torch.float32))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        ids = torch.zeros((rows, length), dtype=torch.int64)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if packed and fast:
            inputs = {"input_ids": ids, "position_ids": _one_document(base, rows, length)}
        if has_sparse_head(model):
            inputs["logits_to_keep"] = torch.arange(positions)
        model(**inputs, use_cache=False)
    return sum(size for size, _ in kept.values())


def _one_document(base: Any, rows: int, length: int) -> torch.Tensor:
    """Positions of a pack of one row: shapes cannot be read, so its documents are told."""
    attention.register()
    base.set_attn_implementation(attention.NAME)
    positions = torch.arange(length)[None].expand(rows, length)
    attention._seen[positions] = [(row, 0, length) for row in range(rows)]  # noqa: SLF001
    return positions
