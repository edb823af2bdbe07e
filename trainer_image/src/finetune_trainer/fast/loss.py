"""Cross-entropy from hidden states, in chunks, with the gradient made on the way.

The logits of a chunk are made, used for the loss, turned into their own gradient in place and multiplied back; all
logits at once never exist, nor a second copy of them. The head is frozen: the hidden states' gradient is all there is.
"""

from typing import Any

import torch

from finetune_trainer.fast.gemm import linear

CHUNK_ELEMENTS = {"cpu": 2**23}
MANY_ELEMENTS = 2**26
"""Logits of a chunk on a CPU (32 MB in float32) and elsewhere: enough rows for a good product, and little beside the
rest."""


class LinearCrossEntropy(torch.autograd.Function):
    """Sum of the NLL of targets [n] under hidden [n, d] @ weight.T, for weight [vocabulary, d].

    With `smoothing`, that share of each target is spread over the whole vocabulary, as torch's cross_entropy does it.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, smoothing: float
    ) -> torch.Tensor:
        """A scalar in float32."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        rows = max(1, CHUNK_ELEMENTS.get(hidden.device.type, MANY_ELEMENTS) // len(weight))
        for start in range(0, len(hidden), rows):
            chunk, wanted = hidden[start : start + rows].to(weight.dtype), targets[start : start + rows, None]
            logits = linear(chunk, weight).float()
            top, right = logits.amax(-1, keepdim=True), logits.gather(1, wanted)
            if smoothing:
                right = (1 - smoothing) * right + smoothing * logits.mean(-1, keepdim=True)
            sums = logits.sub_(top).exp_().sum(-1, keepdim=True)
            total += (sums.log() + top - right).sum()
            if grad is not None:
                logits.div_(sums).scatter_add_(1, wanted, torch.full_like(sums, smoothing - 1.0))
                if smoothing:
                    logits.sub_(smoothing / logits.shape[-1])
                grad[start : start + rows] = linear(logits.to(weight.dtype), weight.t())
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        """The kept gradient times whatever the loss is multiplied with."""
        (grad,) = ctx.saved_tensors
        return None if grad is None else grad * grad_output.to(grad.dtype), None, None, None


def nll_sum(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, ignored: int, smoothing: float = 0.0
) -> torch.Tensor:
    """Sum of the NLL of the targets [...] that are not `ignored`, for hidden [..., d]; the others cost nothing."""
    trained = (targets != ignored).flatten()
    loss: torch.Tensor = LinearCrossEntropy.apply(
        hidden.flatten(0, -2)[trained], weight, targets.flatten()[trained], smoothing
    )
    return loss
