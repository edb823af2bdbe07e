"""The output head of a model hands out hidden states instead of logits, while asked to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetune_trainer.fast.sharding import is_whole


class Head(nn.Linear):
    """The model's own head under another class: same weights, same place, same state dict."""

    hands_out_hidden = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits; or `x` itself, which the model then returns as its logits."""
        return x if self.hands_out_hidden else super().forward(x)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Within: the model's `logits` are what the head was given."""
        self.hands_out_hidden = True
        try:
            yield
        finally:
            self.hands_out_hidden = False


def convert(model: Any) -> Head | None:
    """Make the head of a causal language model a Head; None, and nothing done, where it is no plain frozen linear.

    In float16 a loss is scaled before its backward, and here the gradient would be made before that.
    """
    head = output_head(model)
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        return None
    if head.weight.dtype is torch.float16:
        return None
    head.__class__ = Head
    return head


def revert(head: Any) -> None:
    """Make it a plain linear again."""
    head.__class__ = nn.Linear


def head_of(model: Any) -> Head | None:
    """The model's Head, if it has one and the weight is here."""
    head = output_head(getattr(model, "module", model))
    return head if isinstance(head, Head) and is_whole(head.weight) else None


def output_head(model: Any) -> Any:
    """What makes the logits, or None."""
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def is_plain(model: Any, head: Head, input_ids: torch.Tensor) -> bool:
    """Whether the head's product with what the model returned is the model's logits: no cap, no shift.

    A scale is none of them: the model scales what its head hands out, whatever that is. Asked of the model itself, with
    a row [1, tokens].
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = model(input_ids=input_ids, use_cache=False).logits
            with head.hidden():
                hidden = model(input_ids=input_ids, use_cache=False).logits
            if hidden.shape[-1] != head.in_features:
                return False
            ours = head(hidden.to(head.weight.dtype))
    finally:
        model.train(was_training)
    scale = float(logits.abs().max())
    return bool(((ours.float() - logits.float()).abs().max() <= 1e-3 * scale).item())
