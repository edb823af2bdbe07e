"""The spec as transformers' TrainingArguments."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Scheduler

_SCHEDULERS = {Scheduler.LINEAR: "linear", Scheduler.COSINE: "cosine", Scheduler.CONSTANT: "constant_with_warmup"}


class Arguments(TrainingArguments):  # type: ignore[misc]  # transformers publishes no types
    """TrainingArguments whose warm-up is rounded down, so that a run of one step still learns something."""

    warmup_ratio: float = 0.0

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """The optimizer steps in which the learning rate rises."""
        return int(num_training_steps * self.warmup_ratio)


def training_arguments(run: RunFile, folder: Path, dtype: torch.dtype) -> Any:
    """Build the arguments of the Trainer; its own defaults for saving, logging and NaN do not suit a lone Job."""
    training = run.training
    cpu = not torch.cuda.is_available()
    arguments = Arguments(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.micro_batch_size,
        gradient_accumulation_steps=training.batch_size // (training.micro_batch_size * run.processes),
        learning_rate=float(training.learning_rate),
        lr_scheduler_type=_SCHEDULERS[training.scheduler],
        weight_decay=float(training.weight_decay),
        max_grad_norm=float(training.max_gradient_norm),
        seed=training.seed,
        data_seed=training.seed,
        bf16=dtype is torch.bfloat16,
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and run.processes > 1 else None,
        ddp_find_unused_parameters=False,
        activation_checkpointing=training.gradient_checkpointing,
        # Reentrant checkpointing needs gradients at the frozen embeddings and breaks under DDP.
        activation_checkpointing_kwargs={"use_reentrant": False} if training.gradient_checkpointing else None,
        eval_strategy="steps" if run.evaluation.every_steps and run.dataset.evaluation else "no",
        eval_steps=run.evaluation.every_steps,
        save_strategy="steps",
        save_steps=training.checkpoints.every_steps,
        save_total_limit=1,  # on this disk; storage keeps what the spec says
        logging_strategy="steps",
        logging_steps=training.logging_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not cpu,
    )
    arguments.warmup_ratio = float(training.warmup_ratio)
    return arguments
