"""`training.extraArguments`: fields of TrainingArguments that have no field of ours.

What is taken is listed: most of the others would undo in silence what a run promises (where it saves, that it resumes,
that a NaN ends it), and those that have a field of ours are refused with its name.
"""

from dataclasses import fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from transformers import TrainingArguments

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError

TAKEN = frozenset(
    {
        "dataloader_multiprocessing_context",
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "ddp_broadcast_buffers",
        "ddp_bucket_cap_mb",
        "ddp_static_graph",
        "eval_delay",
        "full_determinism",
        "include_num_input_tokens_seen",
        "logging_first_step",
        "tf32",
        "torch_empty_cache_steps",
    }
)
TYPED = {
    "output_dir": "output.uri",
    "per_device_train_batch_size": "training.microBatchSize",
    "gradient_accumulation_steps": "training.batchSize",
    "auto_find_batch_size": "training.microBatchSize",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.maxSteps",
    "learning_rate": "training.learningRate",
    "lr_scheduler_type": "training.scheduler",
    "lr_scheduler_kwargs": "training.schedulerOptions",
    "warmup_steps": "training.warmupSteps",
    "optim": "training.optimizer.type",
    "adam_beta1": "training.optimizer.beta1",
    "adam_beta2": "training.optimizer.beta2",
    "adam_epsilon": "training.optimizer.epsilon",
    "weight_decay": "training.weightDecay",
    "max_grad_norm": "training.maxGradientNorm",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "activation_checkpointing": "training.gradientCheckpointing",
    "activation_checkpointing_kwargs": "training.gradientCheckpointing",
    "gradient_checkpointing": "training.gradientCheckpointing",
    "gradient_checkpointing_kwargs": "training.gradientCheckpointing",
    "neftune_noise_alpha": "training.neftuneNoiseAlpha",
    "seed": "training.seed",
    "data_seed": "training.seed",
    "logging_steps": "training.loggingSteps",
    "logging_strategy": "training.loggingSteps",
    "eval_strategy": "evaluation.everySteps",
    "eval_steps": "evaluation.everySteps",
    "load_best_model_at_end": "evaluation.keepBest",
    "metric_for_best_model": "evaluation.metric",
    "greater_is_better": "evaluation.metric",
    "label_smoothing_factor": "training.labelSmoothing",
    "per_device_eval_batch_size": "evaluation.batchSize",
    "save_strategy": "training.checkpoints.everySteps",
    "save_steps": "training.checkpoints.everySteps",
    "save_total_limit": "training.checkpoints.keep",
    "report_to": "training.trackers",
    "project": "training.trackers",
    "trackio_space_id": "training.trackers",
    "use_cpu": "resources.gpus",
}

ABSENT = {
    "optim_args": "the optimizers that are offered read nothing from it",
    "optim_target_modules": "only GaLore and APOLLO use it, which are not offered: their state holds code, so a run "
    "could not be resumed safely",
}
"""What a user may well look for, and why it is not here."""
NEED_WORKERS = ("dataloader_multiprocessing_context", "dataloader_persistent_workers", "dataloader_prefetch_factor")
"""torch refuses each of them without processes that load data."""


def extra_arguments(given: dict[str, str]) -> dict[str, Any]:
    """The values as their fields want them.

    Raises:
        RunError: InvalidConfiguration, for a name that is not taken or a value of another type.
    """
    types = get_type_hints(TrainingArguments)
    known = {field.name for field in fields(TrainingArguments)}
    for name in given:
        if name not in TAKEN:
            raise _refused(name, known)
    values = {name: _value(name, text, types[name]) for name, text in given.items()}
    if values.get("dataloader_num_workers", 0) <= 0:
        for name in NEED_WORKERS:
            if values.get(name):
                where, instead = f"training.extraArguments.{name}", "Set dataloader_num_workers to 1 or more, too."
                raise RunError(Reason.INVALID_CONFIGURATION, f"{where}: no process loads data beside it", instead)
    return values


def _refused(name: str, known: set[str]) -> RunError:
    where = f"training.extraArguments.{name}"
    if name in TYPED:
        return RunError(Reason.INVALID_CONFIGURATION, f"{where}: {TYPED[name]} says it", f"Set {TYPED[name]} instead.")
    if name in ABSENT:
        instead = "Set the fields of training.optimizer; AdamW8bit and Adafactor have a small state, too."
        return RunError(Reason.INVALID_CONFIGURATION, f"{where}: {ABSENT[name]}", instead)
    taken = f"These are taken: {', '.join(sorted(TAKEN))}."
    if name in known:
        return RunError(Reason.INVALID_CONFIGURATION, f"{where}: the trainer sets it itself", taken)
    return RunError(Reason.INVALID_CONFIGURATION, f"{where}: transformers.TrainingArguments has no such field", taken)


def _value(name: str, text: str, wanted: Any) -> Any:
    """Read `text` as the first of the field's types that fits."""
    members = get_args(wanted) if get_origin(wanted) is UnionType else (wanted,)
    for kind in (bool, int, float, str):
        if kind not in members:
            continue
        try:
            return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            continue
    names = " or ".join(kind.__name__ for kind in members if kind is not type(None))
    raise RunError(
        Reason.INVALID_CONFIGURATION, f"training.extraArguments.{name}: '{text}' is no {names}", "Write another value."
    )
