"""Whether a parameter is all here, now."""

import torch
from torch.distributed.tensor import DTensor


def is_whole(*parameters: torch.Tensor) -> bool:
    """False for what FSDP2 has sharded and for what DeepSpeed's ZeRO-3 gathers only while its own module runs."""
    return not any(hasattr(parameter, "ds_id") or isinstance(parameter, DTensor) for parameter in parameters)
