"""Packed documents attended one by one, through transformers' own registries of attention and mask functions.

transformers' sdpa path isolates packed documents by a mask, and computes the whole square for it: twice as long packs
cost four times as much. Here where a document begins is read from the positions that the layer is given, and each is
computed for itself. No mask is built. Flash attention has its own path for this (varlen) and is left alone.
https://huggingface.co/docs/transformers/attention_interface
"""

from typing import Any

import torch
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetune_trainer.fast.blocked import CausalAttention, Document

NAME = "sdpa_by_document"
REPLACES = "sdpa"
"""Only this implementation is replaced: the others are chosen by a model, or by a user, for a reason."""

_seen: Any = WeakTensorKeyDictionary()
"""The documents of position tensors that are alive: all layers get the same tensor, and reading it waits for a GPU."""


def register() -> None:
    """Make the implementation known to transformers under NAME; a model takes it by `set_attn_implementation`."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)


def mask(*, q_length: int, kv_length: int, **arguments: Any) -> torch.Tensor | None:
    """Build no mask where `attention` needs none: causal, over the whole sequence, without pads and without a cache.

    Everything else (padded rows, windows, prefixes, masks of the model's own) gets sdpa's mask, with which `attention`
    does what sdpa does.
    """
    special = arguments.get("use_vmap") or arguments.get("local_size") or "allow_is_bidirectional_skip" in arguments
    if arguments.get("attention_mask") is None and q_length == kv_length and not special:
        return None
    whole: torch.Tensor | None = sdpa_mask(q_length=q_length, kv_length=kv_length, **arguments)
    return whole


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attend, each document to itself.

    Args:
        module: The layer.
        query: [batch, heads, tokens, d].
        key: [batch, key heads, tokens, d].
        value: As `key`.
        attention_mask: From `mask`; None where it is causal within documents.
        dropout: Of the attention weights.
        scaling: Of the scores; 1 / sqrt(d) if None.
        is_causal: The layer's own if None.
        more: What the layer got; `position_ids` [batch or 1, tokens] start anew where a document does.

    Returns:
        [batch, tokens, heads, d], and None for the weights.
    """
    positions = more.get("position_ids")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    found = None
    if attention_mask is None and causal and query.shape[2] == key.shape[2]:
        found = documents(positions, query)
    if found is None or (len(found) == len(query) and query.device.type != "cpu"):
        out: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
        return out
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    blocked = query.device.type == "cpu" and not dropout and query.dtype == key.dtype == value.dtype
    if blocked and query.shape[-1] == value.shape[-1]:
        return CausalAttention.apply(query, key, value, scale, found), None
    return _one_by_one(query, key, value, found, dropout, scale), None


def documents(positions: Any, query: torch.Tensor) -> list[Document] | None:
    """Find the documents of `query` [batch, heads, tokens, d], in order.

    `positions` is [batch, tokens] or, the same for all rows, [1, tokens]; anything else cannot be read and gives None.
    """
    batch, tokens = query.shape[0], query.shape[2]
    if not isinstance(positions, torch.Tensor) or positions.shape not in ((batch, tokens), (1, tokens)):
        return None
    if positions not in _seen:
        starts = (torch.diff(positions, prepend=positions[:, :1]) != 1).nonzero().tolist()
        _seen[positions] = [
            (row, start, end or tokens) for (row, start), end in zip(starts, _ends(starts), strict=True)
        ]
    found = _seen[positions]
    return found if len(positions) == batch else [(row, start, end) for row in range(batch) for _, start, end in found]


def _ends(starts: list[list[int]]) -> list[int]:
    """Where the documents end: where the next begins, and 0 for the last of a row."""
    return [*(start for _, start in starts[1:]), 0]


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    found: list[Document],
    dropout: float,
    scale: float,
) -> torch.Tensor:
    """The attention of torch for each document; [batch, tokens, heads, d]."""
    sizes = [end - start for _, start, end in found]
    # One long row of all documents: a split has a cheap backward, slices have not.
    parts = [torch.split(x.transpose(0, 1).flatten(1, 2), sizes, dim=1) for x in (query, key, value)]
    out = [
        functional.scaled_dot_product_attention(
            q[None], k[None], v[None], dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=len(q) != len(k)
        )[0]
        for q, k, v in zip(*parts, strict=True)
    ]
    heads, _, size = out[0].shape
    return torch.cat(out, dim=1).view(heads, len(query), -1, size).permute(1, 2, 0, 3).contiguous()
