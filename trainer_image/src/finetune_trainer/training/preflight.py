"""What can be refused before anything is downloaded, but needs torch and transformers to be known."""

import torch

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Strategy
from finetune_trainer.errors import RunError
from finetune_trainer.extensions import check_extensions, check_image
from finetune_trainer.methods.quantization import compute_dtype
from finetune_trainer.sharding.strategy import strategy_of
from finetune_trainer.training.arguments import training_arguments
from finetune_trainer.training.session import Session


def check_configuration(session: Session) -> None:
    """Check what the image must have, the precision that this machine computes in, and training.extraArguments.

    Raises:
        RunError: InvalidConfiguration.
    """
    run = session.run
    check_image(run)
    check_extensions(run.extensions)
    dtype = compute_dtype(run.training.precision)
    if dtype is torch.float16 and not torch.cuda.is_available():
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            "training.precision: Float16 needs a GPU, and there is none",
            "Set Auto, Float32 or BFloat16.",
        )
    strategy = strategy_of(run)
    if dtype is torch.float16 and strategy is not Strategy.DDP:
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"training.parallelism.strategy: {strategy} does not scale the loss, which float16 needs",
            "Set training.precision: BFloat16 or Float32, or strategy: DDP.",
        )
    if run.method.initialization.needs_float32 and dtype is not torch.float32:
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"method.initialization: {run.method.initialization} starts as the base only in float32, and this run "
            f"computes in {_name(dtype)}",
            "Set training.precision: Float32, or method.initialization: Default.",
        )
    training_arguments(run, session.work.checkpoints, dtype)
    where = "on the GPU" if torch.cuda.is_available() else "on the CPU"
    scaled = ", the loss scaled against underflow" if dtype is torch.float16 else ""
    shared = f", shared out by {strategy} among {run.world} processes" if strategy is not Strategy.DDP else ""
    session.reporter.say(f"training computes in {_name(dtype)} {where}{scaled}{shared}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
