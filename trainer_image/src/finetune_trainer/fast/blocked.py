"""Causal attention of documents on a CPU: blocks of queries, matrix products, and a backward written by hand.

torch's fused kernel for CPUs is slow (about a tenth of a matrix product's rate, measured), and slower backwards. Here
the query heads that share a key head are folded into rows, so that two products per block do the work of all of them,
and no block looks at keys behind its last query. The weights are kept for the backward: nothing is approximated.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from finetune_trainer.fast.gemm import matmul

BLOCK = 128
"""Queries of a block: large enough for a good product, few enough that little of its square lies above the diagonal."""

Document = tuple[int, int, int]
"""Row of the batch, first token, token after the last."""


class CausalAttention(torch.autograd.Function):
    """softmax(scale * Q K^T, causal) V, each document for itself."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, documents: Sequence[Document]
    ) -> torch.Tensor:
        """For q [batch, heads, tokens, d] and k, v [batch, key heads, tokens, d] return [batch, tokens, heads, d]."""
        out = q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3])
        kept: list[torch.Tensor] = []
        for row, start, end in documents:
            folded, keys, values = _document(q, k, v, row, start, end)
            target = _fold(out[row, start:end].transpose(0, 1), len(keys))
            for first, last in _blocks(end - start):
                scores = matmul(_rows(folded, first, last), keys[:, :last].transpose(1, 2)).float().mul_(scale)
                weights = _mask(scores, first, last).softmax(-1).to(q.dtype)
                target[:, :, first:last] = matmul(weights, values[:, :last]).view_as(target[:, :, first:last])
                kept.append(weights)
        ctx.scale, ctx.documents = scale, documents
        ctx.save_for_backward(q, k, v, out, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of q, k and v."""
        q, k, v, out, *kept = ctx.saved_tensors
        weights = iter(kept)
        grads = tuple(torch.empty_like(x) for x in (q, k, v))
        # The softmax' own term, one number per query: the sum of the weights times their gradients.
        own = (grad.float() * out.float()).sum(-1, keepdim=True)
        for row, start, end in ctx.documents:
            parts = _document(q, k, v, row, start, end)
            above, below = (_fold(x[row, start:end].transpose(0, 1), k.shape[1]) for x in (grad, own))
            found = _backward_of_one(parts, above.contiguous(), below, ctx.scale, weights)
            for whole, part in zip(grads, found, strict=True):
                whole[row, :, start:end] = part.view_as(whole[row, :, start:end])
        return *grads, None, None


def _backward_of_one(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    grad: torch.Tensor,
    own: torch.Tensor,
    scale: float,
    kept: Iterator[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of one document's folded queries, keys and values; takes its blocks' weights from `kept`."""
    folded, keys, values = parts
    grad_q = torch.empty_like(folded)
    grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (keys, values))
    for first, last in _blocks(folded.shape[2]):
        weights, above = next(kept), _rows(grad, first, last)
        grad_v[:, :last] += matmul(weights.transpose(1, 2), above)
        scores = matmul(above, values[:, :last].transpose(1, 2)).float().sub_(_rows(own, first, last))
        scores = scores.mul_(weights).mul_(scale).to(folded.dtype)
        grad_q[:, :, first:last] = matmul(scores, keys[:, :last]).view_as(grad_q[:, :, first:last])
        grad_k[:, :last] += matmul(scores.transpose(1, 2), _rows(folded, first, last))
    return grad_q, grad_k, grad_v


def _document(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: int, start: int, end: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One document's queries [key heads, heads of a key head, tokens, d], keys and values [key heads, tokens, d]."""
    queries, keys, values = (x[row, :, start:end] for x in (q, k, v))
    return _fold(queries, len(keys)).contiguous(), keys.contiguous(), values.contiguous()


def _fold(x: torch.Tensor, key_heads: int) -> torch.Tensor:
    """View [heads, tokens, d] as [key heads, heads of a key head, tokens, d]."""
    return x.view(key_heads, -1, *x.shape[1:])


def _rows(folded: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """The queries of a block, the heads of a key head one below the other: [key heads, heads * queries, d]."""
    return folded[:, :, first:last].flatten(1, 2)


def _blocks(tokens: int) -> Iterator[tuple[int, int]]:
    for first in range(0, tokens, BLOCK):
        yield first, min(first + BLOCK, tokens)


def _mask(scores: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Forbid every query the keys after it, in place; only the block's last square has any."""
    above = torch.ones(last - first, last - first, dtype=torch.bool).triu_(1)
    scores.view(len(scores), -1, last - first, last)[..., first:].masked_fill_(above, float("-inf"))
    return scores
