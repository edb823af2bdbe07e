"""A LoRA linear as one autograd function: y = W x + s B A drop(x), with W frozen, in 4 bits or not.

It keeps its input, A's output and one byte per element for dropout. PEFT's own forward keeps the dropped input of every
layer and, in half precision, a float32 copy of it; and torch, while it computes, several results of the size of y.
The layers get a class of their own below PEFT's; whatever it does not cover is PEFT's forward, call by call.
"""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit as BnbLinear4bit
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from torch import nn

from finetune_trainer.fast.gemm import linear, onednn_pays
from finetune_trainer.fast.sharding import is_whole


class LoraFunction(torch.autograd.Function):
    """W x + s B A drop(x) for x [tokens, in], A [rank, in], B [out, rank]; W is the base layer's."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, base: nn.Module, scale: float, dropout: float
    ) -> torch.Tensor:
        """Return [tokens, out] in the dtype of `x`."""
        low, kept = _dropped(x, dropout)
        low = linear(low, a.to(x.dtype))
        out = _base_forward(base, x).addmm_(low, b.to(x.dtype).t(), alpha=scale)
        ctx.base, ctx.scale, ctx.dropout = base, scale, dropout
        ctx.save_for_backward(x, low, kept, a, b)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, A and B."""
        x, low, kept, a, b = ctx.saved_tensors
        grad_b = (grad.t() @ low).mul_(ctx.scale)
        grad_low = linear(grad, b.to(x.dtype).t()).mul_(ctx.scale)
        grad_a = grad_low.t() @ (x if kept is None else _drop(x, kept, ctx.dropout))
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = linear(grad, _weight(ctx.base, x.dtype).t())
            if kept is None:
                grad_x.addmm_(grad_low, a.to(x.dtype))
            else:
                grad_x += _drop(linear(grad_low, a.to(x.dtype).t()), kept, ctx.dropout)
        return grad_x, grad_a.to(a.dtype), grad_b.to(b.dtype), None, None, None


class _Fast:
    """Uses LoraFunction where it computes what PEFT's forward would."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As PEFT's."""
        adapter = None if args or kwargs else _only_adapter(self)
        if adapter is None or not _computes_in(x):
            return super().forward(x, *args, **kwargs)  # type: ignore[misc,no-any-return]
        dropout = self.lora_dropout[adapter]  # type: ignore[attr-defined]
        rate = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        out = LoraFunction.apply(
            x.reshape(-1, x.shape[-1]),
            self.lora_A[adapter].weight,  # type: ignore[attr-defined]
            self.lora_B[adapter].weight,  # type: ignore[attr-defined]
            self.base_layer,  # type: ignore[attr-defined]
            self.scaling[adapter],  # type: ignore[attr-defined]
            rate,
        )
        return out.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


class FastLinear(_Fast, PeftLinear):  # type: ignore[misc]  # peft publishes no types
    """On a plain linear."""


class FastLinear4bit(_Fast, PeftLinear4bit):  # type: ignore[misc]
    """On a 4-bit linear."""


FAST: dict[type[nn.Module], Any] = {PeftLinear: FastLinear, PeftLinear4bit: FastLinear4bit}
"""Exactly these: a subclass of PEFT's does something of its own."""


def convert(model: nn.Module) -> list[nn.Module]:
    """Give every LoRA linear that can be fast its fast class; return them."""
    layers = [module for module in model.modules() if type(module) in FAST and _is_plain(module)]
    for layer in layers:
        layer.__class__ = FAST[type(layer)]
    return layers


def revert(layers: list[nn.Module]) -> None:
    """Give them PEFT's class back."""
    plain: dict[type[nn.Module], Any] = {fast: own for own, fast in FAST.items()}
    for layer in layers:
        layer.__class__ = plain.get(type(layer), type(layer))


def _is_plain(layer: Any) -> bool:
    """Whether the layer is y = W x + s B A drop(x): no variant (DoRA and others), nothing trained but A and B."""
    base = layer.base_layer
    trained = any(parameter.requires_grad for parameter in base.parameters())
    known = type(base) in (nn.Linear, BnbLinear4bit) and not getattr(layer, "fan_in_fan_out", False)
    biased = any(b.bias is not None for b in layer.lora_B.values())
    dropouts = all(type(d) in (nn.Dropout, nn.Identity) for d in layer.lora_dropout.values())
    return known and dropouts and not (trained or biased or layer.lora_variant)


def _only_adapter(layer: Any) -> str | None:
    """The name of the one adapter in use; None where there is none or several, or it is merged, off or sharded."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1 or layer.disable_adapters or layer.merged or layer.lora_variant:
        return None
    weights = (layer.lora_A[active[0]].weight, layer.lora_B[active[0]].weight, layer.base_layer.weight)
    return active[0] if is_whole(*weights) else None


def _computes_in(x: torch.Tensor) -> bool:
    """Whether everything is computed in the dtype of `x`: float32, or what autocast would cast to."""
    if torch.is_autocast_enabled(x.device.type):
        return x.dtype is torch.get_autocast_dtype(x.device.type)
    return x.dtype is torch.float32


def _dropped(x: torch.Tensor, rate: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The input after dropout, and which elements were kept; draws the random numbers that nn.Dropout would."""
    if not rate:
        return x, None
    out, kept = torch.native_dropout(x, rate, True)
    return out, kept


def _drop(x: torch.Tensor, kept: torch.Tensor, rate: float) -> torch.Tensor:
    return (x * kept).mul_(1 / (1 - rate))


def _base_forward(base: Any, x: torch.Tensor) -> torch.Tensor:
    if x.device.type == "cpu" and x.dtype is torch.float32 and onednn_pays():
        return linear(x, _weight(base, x.dtype), base.bias)
    out: torch.Tensor = base(x)
    return out


def _weight(base: Any, dtype: torch.dtype) -> torch.Tensor:
    """The frozen weight [out, in] in the dtype of the computation; made anew from 4 bits, never kept."""
    if isinstance(base, BnbLinear4bit):
        weight: torch.Tensor = dequantize_4bit(base.weight.data, base.weight.quant_state)
        return weight.to(dtype)
    return base.weight.to(dtype)  # type: ignore[no-any-return]
