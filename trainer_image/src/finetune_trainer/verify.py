"""Is the saved adapter what was trained? Load it into a fresh base and compare.

A file on disk proves little: adapters have been published empty, all zero, or of another run. Here the saved folder
must make a fresh base model compute what the trained model computed, and something else than the base alone.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from finetune_api.outcome import Reason
from finetune_trainer.data.collate import Batch
from finetune_trainer.errors import RunError
from finetune_trainer.fast.sharding import without_gradient
from finetune_trainer.methods.adapter import put_saved
from finetune_trainer.methods.start import Start, digest
from finetune_trainer.methods.virtual_tokens import align
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.tasks.task import Task

RELATIVE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Largest difference between trained and reloaded model, as a share of the largest logit. On one machine it is 0 with
deterministic kernels; kernels that add in varying order differ by some last bits of the dtype."""
SHARE_OF_EFFECT = 0.1
"""And as a share of what the adapter changes: noise must not hide that another adapter was loaded."""


@dataclass(frozen=True)
class Probe:
    """What the trained model computes for a few rows; logits are the task's, float32 on the CPU, the rows first."""

    batch: Batch
    """On the CPU."""
    trained: torch.Tensor
    base: torch.Tensor
    """Of the base model, before it got an adapter."""
    task: Task = field(default_factory=CausalLM)


def check_weights(folder: Path, start: Start) -> None:
    """Check that the adapter file has all its tensors, that every number is finite, and that it was trained.

    Raises:
        RunError: VerificationFailed, naming the tensors.
    """
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob(start.files)) or [folder / start.files]:
        try:
            weights |= load_file(path)
        except Exception as error:
            raise _failed(f"{path.name} cannot be read: {error}") from error
    missing, unknown = sorted(start.digests.keys() - weights.keys()), sorted(weights.keys() - start.digests.keys())
    if missing:
        raise _failed(f"{start.files} lacks {len(missing)} of {len(start.digests)} tensors, for instance {missing[0]}")
    if unknown:
        raise _failed(f"{start.files} has {len(unknown)} tensors that the method has not, for instance {unknown[0]}")
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise _failed(f"{len(broken)} of {len(weights)} tensors are not finite, for instance {broken[0]}")
    # A tensor without numbers is a rank that AdaLoRA has pruned to nothing.
    moving = {name: weights[name] for name in sorted(start.must_move) if weights[name].numel()}
    zero = [name for name, tensor in moving.items() if not tensor.any()]
    if zero:
        raise _failed(f"{len(zero)} tensors are all zero, for instance {zero[0]}")
    untrained = [name for name, tensor in moving.items() if digest(tensor) == start.digests[name]]
    if untrained:
        raise _failed(f"{len(untrained)} tensors are as they were before training, for instance {untrained[0]}")


def check_reload(fresh_base: Any, folder: Path, expected: Probe, device: torch.device) -> str:
    """Load the saved adapter onto `fresh_base` and compare with the trained model; return a sentence with the numbers.

    Raises:
        RunError: VerificationFailed with the numbers.
    """
    try:
        model = put_saved(fresh_base, folder)
    except Exception as error:
        raise _failed(f"peft cannot load it: {type(error).__name__}: {error}") from error
    align(model)
    return check_model(model, expected, device, fresh_base.config.dtype)


def check_model(model: Any, expected: Probe, device: torch.device, dtype: torch.dtype) -> str:
    """Compare what a reloaded model computes in `dtype` with the trained one; return a sentence with the numbers.

    Raises:
        RunError: VerificationFailed with the numbers.
    """
    reloaded = logits(model, expected.batch, device, dtype, expected.task)
    if not torch.isfinite(reloaded).all():
        raise _failed("its logits are not finite")
    scale = float(expected.trained.abs().max())
    effect = float((expected.trained - expected.base).abs().max())
    distance = float((reloaded - expected.trained).abs().max())
    if effect == 0:
        raise _failed("its logits are those of the base model")
    allowed = min(RELATIVE_TOLERANCE[dtype] * scale, SHARE_OF_EFFECT * effect)
    numbers = f"largest difference {distance:.3g}, allowed {allowed:.3g}, effect of the adapter {effect:.3g}"
    if distance > allowed:
        raise _failed(f"loaded into a fresh base it does not compute what was trained ({numbers})")
    return f"the saved adapter computes what was trained ({numbers})"


def logits(
    model: Any, batch: Batch, device: torch.device, dtype: torch.dtype, task: Task | None = None
) -> torch.Tensor:
    """What `model` computes in `dtype` for a batch on the CPU: float32 on the CPU, the rows first."""
    model.eval()
    on_device = {name: tensor.to(device) for name, tensor in batch.items()}
    # As in training: in 16 bits, layers that compute in float32 pass on what the next one takes only under autocast.
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)
    with without_gradient(model), autocast:
        return (task or CausalLM()).logits(model, on_device).cpu()


def _failed(message: str) -> RunError:
    return RunError(Reason.VERIFICATION_FAILED, f"the saved adapter failed its check: {message}")
