"""Put the adapter of a method on a base model, and bring it to disk."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file

from finetune_api.v1alpha1 import Method, MethodType
from finetune_trainer.methods.adalora import RankPruning, adalora_config
from finetune_trainer.methods.full import load_weights, unfreeze
from finetune_trainer.methods.ia3 import ia3_config
from finetune_trainer.methods.lora import lora_config
from finetune_trainer.methods.p_tuning import p_tuning_config
from finetune_trainer.methods.prefix_tuning import prefix_tuning_config
from finetune_trainer.methods.prompt_tuning import prompt_tuning_config
from finetune_trainer.methods.state import WholeState
from finetune_trainer.methods.virtual_tokens import align
from finetune_trainer.sharding.gathering import trained_state
from finetune_trainer.tasks.head import head_modules
from finetune_trainer.tasks.task import Task

WEIGHTS = "adapter_model.safetensors"


def add_adapter(model: Any, method: Method, seed: int, task: Task | None = None) -> Any:
    """Freeze `model` and put a fresh adapter on it, random by `seed`; the head of a task is trained whole.

    The adapter is float32 whatever the base is: small updates get lost in 16 bits.

    Raises:
        RunError: InvalidConfiguration for a method that this model cannot have.
    """
    torch.manual_seed(seed)
    if method.type is MethodType.FULL:
        return unfreeze(model)
    config = _config(model, method)
    if task:
        config.task_type = task.peft_type
        if heads := head_modules(model, task):
            config.modules_to_save = sorted({*heads, *(config.modules_to_save or [])})
    tuned = get_peft_model(model, config)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    align(tuned)
    return tuned


def _config(model: Any, method: Method) -> Any:
    match method.type:
        case MethodType.QLORA | MethodType.LORA:
            return lora_config(model, method)
        case MethodType.ADALORA:
            return adalora_config(model, method)
        case MethodType.IA3:
            return ia3_config(model, method)
        case MethodType.PREFIX_TUNING:
            return prefix_tuning_config(method)
        case MethodType.PROMPT_TUNING:
            return prompt_tuning_config(method)
        case MethodType.P_TUNING:
            return p_tuning_config(method, model.config.get_text_config().hidden_size)
    raise ValueError(f"{method.type} is no method of peft")


def keeper(model: Any, method: Method) -> RankPruning | WholeState | None:
    """What a checkpoint of this method needs beside peft's own files, as a callback of the Trainer."""
    if method.type is MethodType.ADALORA:
        return RankPruning(model)
    return WholeState(model) if method.type is MethodType.P_TUNING else None


def save_start(model: Any, method: Method, folder: Path) -> None:
    """Write to `folder` what `save_adapter` needs to know of a fresh adapter; most methods need nothing."""
    if method.initialization.changes_base:
        config = model.peft_config["default"]
        kind, config.init_lora_weights = config.init_lora_weights, True  # else loading it would change the base again
        model.save_pretrained(folder, save_embedding_layers=False)
        config.init_lora_weights = kind


def save_adapter(model: Any, method: Method, folder: Path, start: Path) -> None:
    """Write the adapter as peft loads it onto an untouched base.

    OLoRA and PiSSA have taken their start out of the base. What is written is the difference to it, a plain LoRA of
    twice the rank: servers know nothing of starts.
    """
    if method.type is MethodType.FULL:
        model.save_pretrained(folder)
        return
    conversion = str(start) if method.initialization.changes_base else None
    with warnings.catch_warnings():
        # Peft warns of two adapters on a changed base, and of ranks pruned to nothing: both are meant.
        warnings.simplefilter("ignore", UserWarning)
        model.save_pretrained(
            folder,
            state_dict=trained_state(model),
            save_embedding_layers=False,
            path_initial_model_for_weight_conversion=conversion,
        )


def put_saved(base: Any, folder: Path) -> Any:
    """Load a saved adapter onto `base`, with plain peft."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of AdaLoRA's own pattern, for instance; what it computes is always compared
        return PeftModel.from_pretrained(base, folder)


def load_checkpoint(model: Any, kept: RankPruning | WholeState | None, checkpoint: Path) -> None:
    """Put the trained numbers of a checkpoint into `model`, without training on."""
    if not isinstance(model, PeftModel):
        load_weights(model, checkpoint)
        return
    set_peft_model_state_dict(model, load_file(checkpoint / WEIGHTS))
    if kept:
        kept.restore(checkpoint)
