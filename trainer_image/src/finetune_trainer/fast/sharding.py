"""Whether a parameter is all here, now."""

from contextlib import AbstractContextManager

import torch
from torch.distributed.tensor import DTensor


def is_whole(*parameters: torch.Tensor) -> bool:
    """False for what FSDP2 has sharded and for what DeepSpeed's ZeRO-3 gathers only while its own module runs."""
    return not any(hasattr(parameter, "ds_id") or isinstance(parameter, DTensor) for parameter in parameters)


def is_whole_model(model: torch.nn.Module) -> bool:
    """Whether this process can run `model` alone; else every forward takes all processes. Asked between forwards."""
    return is_whole(*model.parameters())


def without_gradient(model: torch.nn.Module) -> AbstractContextManager[object]:
    """For evaluating `model`. What is gathered in inference mode could not be trained with afterwards."""
    return torch.inference_mode() if is_whole_model(model) else torch.no_grad()
