"""The LoRA adapter (https://arxiv.org/abs/2106.09685)."""

import re
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Method
from finetune_trainer.errors import RunError

ALL_LINEAR = "all-linear"


def add_adapter(model: Any, method: Method, seed: int) -> Any:
    """Freeze `model` and put a fresh adapter on it; A is random by `seed`, B is zero, so the model computes as before.

    The adapter is float32 whatever the base is: small updates get lost in bfloat16.

    Raises:
        RunError: InvalidConfiguration for a target module that the model does not have.
    """
    _check_targets(model, method.target_modules)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=float(method.dropout),
        bias="none",
        target_modules=ALL_LINEAR if method.target_modules == [ALL_LINEAR] else list(method.target_modules),
    )
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def _check_targets(model: Any, targets: list[str]) -> None:
    if targets == [ALL_LINEAR]:
        return
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if unknown:
        # Layers differ by number only: show each kind once.
        kinds = sorted({re.sub(r"^.*\.", "", name) for name in names})
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"method.targetModules: the model has no linear module named {', '.join(unknown)}",
            f"It has {', '.join(kinds)}; {ALL_LINEAR} takes all but the output head.",
        )
