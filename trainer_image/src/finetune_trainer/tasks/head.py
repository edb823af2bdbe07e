"""The part of a model that is the task's own: what stands beside the base model, with weights."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from finetune_trainer.tasks.task import Task


def head_modules(model: Any, task: Task) -> list[str]:
    """Names of the modules that are trained whole, saved with the adapter, and may be missing in the base's files."""
    if not task.kind.has_head:
        return []
    children = dict(model.named_children())
    return sorted(
        name
        for name, module in children.items()
        if name != model.base_model_prefix and next(module.parameters(), None) is not None
    )


def task_config(folder: Path, task: Task) -> Any:
    """The config of the model in `folder`, with what is the task's own."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for name, value in task.settings.items():
        setattr(config, name, value)
    return config


def bones(folder: Path, task: Task, dtype: torch.dtype) -> Any:
    """The model of a task as shapes, on torch's meta device; only config.json is read."""
    with torch.device("meta"):
        return task.auto_class.from_config(task_config(folder, task), dtype=dtype)
