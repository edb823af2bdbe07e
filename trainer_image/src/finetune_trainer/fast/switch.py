"""Turns the fast paths on where a model allows them, says which, and turns them off again."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from finetune_trainer.fast import attention as by_document
from finetune_trainer.fast import lora
from finetune_trainer.fast.head import Head, convert, is_plain, revert


@dataclass
class FastPaths:
    """What is on for one model."""

    model: Any
    lora_layers: list[nn.Module] = field(default_factory=list)
    head: Head | None = None
    attention: bool = False

    def turn_off(self) -> None:
        """Leave everything to the libraries, as if nothing had been turned on."""
        lora.revert(self.lora_layers)
        self.lora_layers = []
        if self.head is not None:
            revert(self.head)
            self.head = None
        self.turn_off_attention()

    def turn_off_attention(self) -> None:
        """Give the model its own attention back."""
        if self.attention:
            base_of(self.model).set_attn_implementation(by_document.REPLACES)
            self.attention = False

    def __str__(self) -> str:
        """What is on, for the log."""
        parts = [
            "attention by document" if self.attention else "",
            "the loss in chunks" if self.head is not None else "",
            f"{len(self.lora_layers)} LoRA layers" if self.lora_layers else "",
        ]
        return ", ".join(part for part in parts if part) or "none applies to this model"


def turn_on(model: Any, input_ids: torch.Tensor) -> FastPaths:
    """Turn on what applies to `model`, a causal language model with an adapter or without.

    `input_ids` [1, tokens] is a row, on the model's device, with which the model is asked what its head does.
    """
    paths = FastPaths(model, lora.convert(model))
    base = base_of(model)
    if getattr(base.config, "_attn_implementation", None) == by_document.REPLACES:
        by_document.register()
        base.set_attn_implementation(by_document.NAME)
        paths.attention = base.config._attn_implementation == by_document.NAME  # noqa: SLF001
    found = convert(base)
    if found is not None and not is_plain(model, found, input_ids):
        revert(found)
        found = None
    paths.head = found
    return paths


def base_of(model: Any) -> Any:
    """The transformers model below PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
