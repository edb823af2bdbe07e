"""Call a model with what its forward takes."""

import inspect
from typing import Any

import torch

from finetune_trainer.data.collate import Batch


def unwrapped(model: Any) -> Any:
    """The model that a parallel engine (DDP, DeepSpeed) has wrapped, still with its adapter."""
    while (inner := dict(model.named_children()).get("module")) is not None:
        model = inner
    return model


def base_of(model: Any) -> Any:
    """Transformers' model below all wrappers."""
    model = unwrapped(model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def forward(model: Any, batch: Batch, **more: Any) -> Any:
    """The output of `model` for a batch, whose labels are not shown to it.

    Segments are for models that know them. A base in 16 bits computes under autocast, as in training: its adapter and
    head are float32.
    """
    base = base_of(model)
    known = inspect.signature(base.forward).parameters
    given = {**batch, **more, "use_cache": False}
    inputs = {name: value for name, value in given.items() if name in known and name != "labels"}
    half = base.dtype in (torch.bfloat16, torch.float16)
    with torch.autocast(batch["input_ids"].device.type, dtype=base.dtype if half else None, enabled=half):
        return model(**inputs)
