"""The model of a run as shapes: parameters, modules and code are the real ones, the numbers are not there."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from finetune_api.v1alpha1 import Initialization, Method
from finetune_trainer.methods.adapter import add_adapter
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.tasks.head import bones
from finetune_trainer.tasks.task import Task


def skeleton(folder: Path, method: Method, dtype: torch.dtype, task: Task | None = None) -> Any:
    """The model of `folder` with the adapter of `method`, on torch's meta device; only config.json is read.

    Where the base is quantized its linear layers stand here in `dtype`: what they keep for the backward is the same.
    """
    task = task or CausalLM()
    model = bones(folder, task, dtype)
    plain = method.model_copy(update={"initialization": Initialization.DEFAULT})  # others compute with the numbers
    with torch.device("meta"):
        return add_adapter(model, plain, 0, task)


def imagine(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace every tensor of a model on the meta device by one that pretends to be on the CPU; tied ones stay tied."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the old one is kept, for its id

    def replaced(old: torch.Tensor) -> torch.Tensor:
        if id(old) not in made:
            with mode:
                new = torch.empty(old.shape, dtype=old.dtype)
            made[id(old)] = (nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new, old)
        return made[id(old)][0]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):  # noqa: SLF001 - setattr would copy into the old one
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = replaced(tensor)  # type: ignore[assignment]
