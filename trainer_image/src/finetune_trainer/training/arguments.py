"""The spec as transformers' TrainingArguments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import OptimizerType, ParameterGroup, Scheduler, Strategy, Training
from finetune_trainer.errors import RunError
from finetune_trainer.sharding import zero
from finetune_trainer.training.extra import extra_arguments
from finetune_trainer.training.trackers import project

_SCHEDULERS = {
    Scheduler.LINEAR: "linear",
    Scheduler.COSINE: "cosine",
    Scheduler.CONSTANT: "constant_with_warmup",
    Scheduler.COSINE_WITH_MIN_LR: "cosine_with_min_lr",
    Scheduler.POLYNOMIAL: "polynomial",
    Scheduler.INVERSE_SQRT: "inverse_sqrt",
    Scheduler.WARMUP_STABLE_DECAY: "warmup_stable_decay",
}
_OPTIMIZERS = {
    OptimizerType.ADAMW: "adamw_torch",
    OptimizerType.ADAMW_FUSED: "adamw_torch_fused",
    OptimizerType.ADAMW_8BIT: "adamw_bnb_8bit",
    OptimizerType.PAGED_ADAMW: "paged_adamw_32bit",
    OptimizerType.PAGED_ADAMW_8BIT: "paged_adamw_8bit",
    OptimizerType.LION: "lion_32bit",
    OptimizerType.ADAFACTOR: "adafactor",
    OptimizerType.SGD: "sgd",
}


class Arguments(TrainingArguments):  # type: ignore[misc]  # transformers publishes no types
    """TrainingArguments whose warm-up is rounded down, so that a run of one step still learns something."""

    warmup_ratio: float = 0.0
    fixed_warmup_steps: int | None = None
    decay_ratio: float | None = None
    """Of WarmupStableDecay, whose scheduler wants steps."""
    lr_scheduler_kwargs: Any
    parameter_groups: Sequence[ParameterGroup] = ()
    lora_plus_ratio: float = 1.0

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """The optimizer steps in which the learning rate rises.

        The Trainer asks just before it makes the scheduler; only here is the number of steps known.
        """
        if self.decay_ratio is not None:
            decay = max(1, round(self.decay_ratio * num_training_steps))
            self.lr_scheduler_kwargs = {**self.lr_scheduler_kwargs, "num_decay_steps": decay}
        if self.fixed_warmup_steps is not None:
            return min(self.fixed_warmup_steps, num_training_steps - 1)
        return int(num_training_steps * self.warmup_ratio)


def training_arguments(run: RunFile, folder: Path, dtype: torch.dtype, strategy: Strategy = Strategy.DDP) -> Any:
    """Build the arguments of the Trainer; its own defaults for saving, logging and NaN do not suit a lone Job.

    Raises:
        RunError: InvalidConfiguration for training.extraArguments.
    """
    extra = extra_arguments(run.training.extra_arguments)
    cpu = not torch.cuda.is_available()
    settings = {
        **_optimization(run.training, run.world),
        "output_dir": str(folder),
        "bf16": dtype is torch.bfloat16 and not strategy.is_zero,
        "fp16": dtype is torch.float16,
        "use_cpu": cpu,
        "ddp_backend": "gloo" if cpu and run.world > 1 else None,
        "ddp_find_unused_parameters": False,
        "eval_strategy": "no",  # ScheduleCallback asks for evaluations
        "save_strategy": "steps",
        "save_steps": run.training.checkpoints.every_steps,
        "save_total_limit": 1,  # on this disk; storage keeps what the spec says
        "logging_strategy": "steps",
        "logging_steps": run.training.logging_steps,
        "logging_nan_inf_filter": False,
        "report_to": [],  # training.trackers are callbacks of our own
        "run_name": f"{run.name}-{run.uid[:8]}",
        **project(run.training.trackers),
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": not cpu,
        "deepspeed": zero.configuration(strategy) if strategy.is_zero else None,
    }
    try:
        arguments = Arguments(**{**settings, **extra})
    except ValueError as error:
        if not extra:
            raise
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"training.extraArguments ({', '.join(sorted(extra))}) are not accepted together: {error}",
            "Remove the one that is named.",
        ) from error
    arguments.warmup_ratio = float(run.training.warmup_ratio)
    arguments.fixed_warmup_steps = run.training.warmup_steps
    arguments.parameter_groups = run.training.parameter_groups
    arguments.lora_plus_ratio = float(run.method.lora_plus_ratio or "1")
    if run.training.scheduler is Scheduler.WARMUP_STABLE_DECAY:
        arguments.decay_ratio = float(run.training.scheduler_options.decay_ratio or "0.1")
    return arguments


def _optimization(training: Training, processes: int) -> dict[str, Any]:
    """What decides which steps are taken."""
    optimizer = training.optimizer
    noise = training.neftune_noise_alpha
    return {
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.batch_size // (training.micro_batch_size * processes),
        "learning_rate": float(training.learning_rate),
        "lr_scheduler_type": _SCHEDULERS[training.scheduler],
        "lr_scheduler_kwargs": _scheduler_options(training),
        "optim": _OPTIMIZERS[optimizer.type],
        "adam_beta1": float(optimizer.beta1 or "0.9"),
        "adam_beta2": float(optimizer.beta2 or "0.999"),
        "adam_epsilon": float(optimizer.epsilon or "1e-8"),
        "weight_decay": float(training.weight_decay),
        "max_grad_norm": float(training.max_gradient_norm),
        "neftune_noise_alpha": float(noise) if noise else None,
        "seed": training.seed,
        "data_seed": training.seed,
        "activation_checkpointing": training.gradient_checkpointing,
        # Reentrant checkpointing needs gradients at the frozen embeddings and breaks under DDP.
        "activation_checkpointing_kwargs": {"use_reentrant": False} if training.gradient_checkpointing else None,
    }


def _scheduler_options(training: Training) -> dict[str, float]:
    """The scheduler's own numbers, as transformers calls them."""
    options = training.scheduler_options
    floor = float(options.min_learning_rate_ratio or "0")
    match training.scheduler:
        case Scheduler.COSINE_WITH_MIN_LR:
            return {"min_lr_rate": floor}
        case Scheduler.WARMUP_STABLE_DECAY:
            return {"min_lr_ratio": floor}
        case Scheduler.POLYNOMIAL:
            return {"power": float(options.power or "1"), "lr_end": 0.0}
        case _:
            return {}
