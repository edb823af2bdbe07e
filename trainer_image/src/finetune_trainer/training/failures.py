"""Exceptions of other people's code that have a reason of ours."""

from pathlib import Path

import torch
from torch import distributed

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_trainer.disk import explain_disk
from finetune_trainer.errors import RunError


def explain(error: Exception, run: RunFile, folder: Path) -> RunError:
    """Turn whatever ended a run into a RunError; what is not known is our own bug and becomes InternalError.

    `folder` is the scratch folder, whose disk may be at fault.
    """
    if isinstance(error, RunError):
        return error
    if disk := explain_disk(error, folder):
        return disk
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return RunError(Reason.OUT_OF_GPU_MEMORY, f"out of GPU memory: {text[:600]}", _memory_hint(run))
    # gloo reports a dead peer as a plain RuntimeError.
    gone = "gloo" in text and any(word in text for word in ("onnection", "ocket", "imed out"))
    if isinstance(error, distributed.DistError) or gone:
        return RunError(Reason.PEER_LOST, f"another process of this run is gone: {text[:600]}")
    return RunError(
        Reason.INTERNAL_ERROR,
        f"{type(error).__name__}: {text[:1500]}",
        "This is a bug of the trainer; its log has the traceback.",
    )


def _memory_hint(run: RunFile) -> str:
    training = run.training
    if training.micro_batch_size > 1:
        return (
            f"Set training.microBatchSize to {training.micro_batch_size // 2} (now {training.micro_batch_size}); the "
            "result stays the same."
        )
    if not training.gradient_checkpointing:
        return "Set training.gradientCheckpointing to true; the result stays the same."
    return "Lower training.maxLength, or use a GPU with more memory."
