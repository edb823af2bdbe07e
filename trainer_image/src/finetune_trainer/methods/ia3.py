"""IA3 (https://arxiv.org/abs/2205.05638): one factor a channel for keys, values and the inner layer of the MLP."""

from typing import Any

from peft import IA3Config
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Method
from finetune_trainer.errors import RunError
from finetune_trainer.methods.modules import modules_to_save


def ia3_config(model: Any, method: Method) -> IA3Config:
    """The configuration for `model`; which layers get factors is the paper's choice, kept by peft per architecture.

    Raises:
        RunError: InvalidConfiguration for an architecture that peft has no choice for.
    """
    architecture = model.config.model_type
    if architecture not in KNOWN:
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"method.type IA3: peft does not know which layers of a {architecture} model get factors",
            f"It knows {', '.join(sorted(KNOWN))}; or set method.type: LoRA.",
        )
    return IA3Config(task_type="CAUSAL_LM", modules_to_save=modules_to_save(model, method))
