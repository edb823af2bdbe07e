"""LoRA (https://arxiv.org/abs/2106.09685) and its variants: rsLoRA, DoRA, and starts other than B = 0."""

from typing import Any

from peft import LoraConfig

from finetune_api.v1alpha1 import Initialization, Method
from finetune_trainer.methods.modules import modules_to_save, target_modules

_STARTS: dict[Initialization, bool | str] = {
    Initialization.DEFAULT: True,
    Initialization.GAUSSIAN: "gaussian",
    Initialization.ORTHOGONAL: "orthogonal",
    Initialization.OLORA: "olora",
    Initialization.PISSA: "pissa",
}


def lora_config(model: Any, method: Method) -> LoraConfig:
    """The configuration for `model`.

    Raises:
        RunError: InvalidConfiguration for a module that the model does not have.
    """
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=float(method.dropout),
        bias="none",
        target_modules=target_modules(model, method),
        modules_to_save=modules_to_save(model, method),
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        init_lora_weights=_STARTS[method.initialization],
    )
