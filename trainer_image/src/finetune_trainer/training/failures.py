"""Exceptions of other people's code that have a reason of ours."""

import re
from pathlib import Path

import torch
from torch import distributed

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_trainer.disk import explain_disk
from finetune_trainer.errors import RunError

_GPU_FULL = re.compile(
    r"CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|Cuda failure.*out of memory"
)
"""Where it is not torch's own allocator that finds no more memory: plain RuntimeErrors, the last of them NCCL's."""


def explain(error: Exception, run: RunFile, folder: Path) -> RunError:
    """Turn whatever ended a run into a RunError; what is not known is our own bug and becomes InternalError.

    `folder` is the scratch folder, whose disk may be at fault.
    """
    text = " ".join(str(error).split())
    if _gpu_is_full(error):
        return RunError(
            Reason.OUT_OF_GPU_MEMORY, f"out of GPU memory with {_tried(run)}: {text[:600]}", _memory_hint(run)
        )
    if isinstance(error, RunError):
        return error
    if disk := explain_disk(error, folder):
        return disk
    # gloo reports a dead peer as a plain RuntimeError.
    gone = "gloo" in text and any(word in text for word in ("onnection", "ocket", "imed out"))
    if isinstance(error, distributed.DistError) or gone:
        return RunError(Reason.PEER_LOST, f"another process of this run is gone: {text[:600]}")
    return RunError(
        Reason.INTERNAL_ERROR,
        f"{type(error).__name__}: {text[:1500]}",
        "This is a bug of the trainer; its log has the traceback.",
    )


def _gpu_is_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it was raised from, as in code of the user's, is the GPU's memory."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and _GPU_FULL.search(str(error)):
            return True
        error = error.__cause__
    return False


def _tried(run: RunFile) -> str:
    """What decides how much memory is needed, as it was."""
    training = run.training
    accumulated = training.batch_size // (training.micro_batch_size * run.world)
    checkpointing = str(training.gradient_checkpointing).lower()
    return (
        f"training.microBatchSize {training.micro_batch_size} (accumulated {accumulated} times), maxLength "
        f"{training.max_length}, gradientCheckpointing {checkpointing}, evaluation.batchSize "
        f"{run.evaluation.batch_size}"
    )


def _memory_hint(run: RunFile) -> str:
    training = run.training
    now, share = training.micro_batch_size, training.batch_size // run.world
    if smaller := next((size for size in range(now // 2, 0, -1) if share % size == 0), None):
        return f"Set training.microBatchSize to {smaller} (now {now}); the result stays the same."
    if not training.gradient_checkpointing:
        return "Set training.gradientCheckpointing to true; the result stays the same."
    return "Lower training.maxLength, or use a GPU with more memory."
