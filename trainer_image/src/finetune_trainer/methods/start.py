"""What an adapter held before training: nothing that still holds it may be published as trained."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model_state_dict

from finetune_api.v1alpha1 import Method, MethodType
from finetune_trainer.methods.full import FILES
from finetune_trainer.sharding.gathering import trained_state

_MAY_REST = {
    MethodType.QLORA: (".lora_A",),
    MethodType.LORA: (".lora_A",),
    MethodType.ADALORA: (".lora_A", ".lora_B"),
}
"""Where a product starts at zero, the other factor gets no gradient in the first step."""


@dataclass(frozen=True)
class Start:
    """The tensors of an adapter file before the first step."""

    digests: Mapping[str, str]
    """By the tensor's name; every name that the file must have, and no other."""
    must_move: frozenset[str]
    """Tensors that one step of training always changes."""
    files: str = "adapter_model.safetensors"
    """Which files hold them."""


def start_of(model: Any, method: Method) -> Start:
    """Note the start of a fresh adapter, as peft would save it."""
    if method.type is MethodType.FULL:
        return _start_of_all(model)
    tensors = get_peft_model_state_dict(model, state_dict=trained_state(model), save_embedding_layers=False)
    rest = _MAY_REST.get(method.type, ())
    # A bias before a softmax over positions has no gradient at all.
    moving = frozenset(n for n in tensors if not any(part in n for part in rest) and not n.endswith(".bias"))
    return Start({name: digest(tensor) for name, tensor in tensors.items()}, moving)


def _start_of_all(model: Any) -> Start:
    """Tied weights count once. A lone vector (a bias before a softmax) may have no gradient at all."""
    weights = dict(model.named_parameters())
    moving = frozenset(name for name, tensor in weights.items() if tensor.ndim > 1)
    return Start({name: digest(tensor) for name, tensor in weights.items()}, moving, FILES)


def digest(tensor: torch.Tensor) -> str:
    """The sha256 of a tensor's bytes."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
