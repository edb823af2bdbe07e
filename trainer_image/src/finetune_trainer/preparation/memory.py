"""Tell what training will take of a GPU's memory before one is held, and refuse what cannot fit."""

import math
from collections.abc import Callable

import torch

from finetune_api.base import quantity
from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Precision, TaskType
from finetune_trainer.data.shards import Facts
from finetune_trainer.errors import RunError
from finetune_trainer.estimate.estimate import Anatomy, Estimate, anatomy
from finetune_trainer.estimate.skeleton import skeleton
from finetune_trainer.methods.groups import members
from finetune_trainer.preparation.positions import row_limit
from finetune_trainer.tasks.choose import task_of
from finetune_trainer.tokenizer import BROKEN, load_tokenizer, unloadable
from finetune_trainer.workdir import WorkDir

_DTYPES = {
    Precision.BFLOAT16: torch.bfloat16,
    Precision.FLOAT16: torch.float16,
    Precision.FLOAT32: torch.float32,
}


SHARE = 0.9
"""Of a GPU's memory that training may take by our estimate, whoever chose the micro-batch: no estimate is exact."""
_MOST = 4096
"""The largest micro-batch that a spec may have."""


def check_memory(run: RunFile, work: WorkDir, facts: Facts, say: Callable[[str], None]) -> tuple[Estimate, int] | None:
    """Estimate the peak of one training process, with the longest row in every place of the micro-batch.

    Also returns the micro-batch: that of the spec, or the largest that fits where the spec leaves it to this.

    A model whose code needs numbers to run cannot be told, and gives None: that is no reason not to train it.

    Raises:
        RunError: InvalidConfiguration where the estimate is over SHARE of `resources.gpuMemory`, with what would fit;
            or for a method that the model cannot have.
    """
    training = run.training
    if run.extensions.model:
        say("the memory of a model that extensions.model loads cannot be told")
        return None
    if run.task.type is not TaskType.CAUSAL_LM:
        say(f"the memory of a model for {run.task.type} is not estimated")
        _check_modules(run, work, facts)
        return None
    try:
        parts = _anatomy(run, work, facts)
    except RunError:
        raise
    except Exception as error:
        say(f"the memory of this model cannot be told: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return None
    told = parts.peak(training.micro_batch_size, checkpointing=training.gradient_checkpointing)
    if run.gpu_memory is None or not run.gpus:
        return told, training.micro_batch_size
    limit = SHARE * quantity(run.gpu_memory)
    if told.total > limit:
        raise _too_much(run, parts, told, limit)
    if training.auto_micro_batch_size:
        return _largest(run, parts, told, limit)
    return told, training.micro_batch_size


def _too_much(run: RunFile, parts: Anatomy, told: Estimate, limit: float) -> RunError:
    return RunError(
        Reason.INVALID_CONFIGURATION,
        f"training needs about {_gib(told.total)} of GPU memory and resources.gpuMemory is {run.gpu_memory}, of which "
        f"{SHARE:.0%} may be used: no estimate is exact; in MiB, {str(told).partition(': ')[2]}",
        _remedy(run, parts, limit),
    )


def _largest(run: RunFile, parts: Anatomy, least: Estimate, limit: float) -> tuple[Estimate, int]:
    """The largest micro-batch below `limit` bytes that divides a process's share of the batch, and its estimate.

    `least` is that of `training.microBatchSize`, which fits.
    """
    size, checkpointing = run.training.micro_batch_size, run.training.gradient_checkpointing
    for larger in range(min(_share(run), _MOST), size, -1):
        if _share(run) % larger == 0 and (told := parts.peak(larger, checkpointing=checkpointing)).total <= limit:
            return told, larger
    return least, size


def _share(run: RunFile) -> int:
    """Sequences of an optimizer step that fall to one process."""
    return run.training.batch_size // (max(1, run.gpus) * run.training_nodes)


def _check_modules(run: RunFile, work: WorkDir, facts: Facts) -> None:
    """Refuse a method that the model cannot have, as the estimate does."""
    task = task_of(run.task.type, facts.labels, load_tokenizer(work.model), work.model)
    try:
        members(skeleton(work.model, run.method, torch.float32, task), run.training.parameter_groups)
    except BROKEN as error:
        raise unloadable("model", error) from error


def _remedy(run: RunFile, parts: Anatomy, limit: float) -> str:
    """What would fit and give the same result, the fastest first."""
    sizes = [size for size in range(run.training.micro_batch_size, 0, -1) if _share(run) % size == 0]
    for checkpointing in (False, True):
        for size in sizes:
            told = parts.peak(size, checkpointing=checkpointing).total
            if told <= limit:
                fields = f"training.microBatchSize: {size}" + (", gradientCheckpointing: true" if checkpointing else "")
                return f"With {fields} it needs about {_gib(told)}; the result stays the same."
    return "Lower training.maxLength or method.rank, or use a GPU with more memory."


def _anatomy(run: RunFile, work: WorkDir, facts: Facts) -> Anatomy:
    training = run.training
    length = training.max_length if training.packing else min(facts.longest, row_limit(run, work.model))
    trained = math.ceil(length * facts.trained_tokens / facts.tokens)
    dtype = _DTYPES.get(training.precision, torch.bfloat16 if run.gpus else torch.float32)
    return anatomy(run, work.model, length, trained, dtype, "cuda" if run.gpus else "cpu")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
