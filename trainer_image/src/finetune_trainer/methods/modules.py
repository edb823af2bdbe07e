"""The names of modules in a job file, judged by the model at hand."""

import re
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Method
from finetune_trainer.errors import RunError

ALL_LINEAR = "all-linear"


def target_modules(model: Any, method: Method) -> str | list[str]:
    """`method.targetModules` as peft takes it.

    Raises:
        RunError: InvalidConfiguration for a target that the model does not have.
    """
    if method.target_modules == [ALL_LINEAR]:
        return ALL_LINEAR
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    unknown = [target for target in method.target_modules if not any(_is(target, name) for name in names)]
    if unknown:
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"method.targetModules: the model has no linear module named {', '.join(unknown)}",
            f"It has {_kinds(names)}; {ALL_LINEAR} takes all but the output head.",
        )
    return list(method.target_modules)


def modules_to_save(model: Any, method: Method) -> list[str] | None:
    """`method.modulesToSave` as peft takes it: modules with weights of their own, which are not quantized.

    Raises:
        RunError: InvalidConfiguration.
    """
    modules = {
        name: module
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    }
    for wanted in method.modules_to_save:
        found = [module for name, module in modules.items() if _is(wanted, name)]
        if not found:
            raise RunError(
                Reason.INVALID_CONFIGURATION,
                f"method.modulesToSave: the model has no module with weights named {wanted}",
                f"It has {_kinds(list(modules))}.",
            )
        if any(isinstance(module, Linear4bit | Linear8bitLt) for module in found):
            raise RunError(
                Reason.INVALID_CONFIGURATION,
                f"method.modulesToSave: {wanted} is quantized, and quantized weights cannot be trained",
                "Remove it, or set method.type: LoRA.",
            )
        if wanted in method.target_modules:
            raise RunError(
                Reason.INVALID_CONFIGURATION,
                f"method.modulesToSave: {wanted} is in method.targetModules, too",
                "Remove it from one of them.",
            )
    return list(method.modules_to_save) or None


def _is(wanted: str, name: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _kinds(names: list[str]) -> str:
    """Layers differ by number only: show each kind once."""
    return ", ".join(sorted({re.sub(r"^.*\.", "", name) for name in names}))
