"""LoRA (https://arxiv.org/abs/2106.09685) and its variants: rsLoRA, DoRA, LoRA+, and starts other than B = 0."""

from typing import Any

from peft import LoraConfig
from peft.optimizers import create_loraplus_optimizer
from transformers import Trainer

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


def loraplus_optimizer(model: Any, method: Method, arguments: Any) -> Any:
    """The optimizer of `arguments` with a faster B, or None where the Trainer makes its own.

    https://arxiv.org/abs/2402.12354
    """
    if method.lora_plus_ratio is None:
        return None
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return create_loraplus_optimizer(
        model,
        optimizer_class,
        loraplus_lr_ratio=float(method.lora_plus_ratio),
        loraplus_weight_decay=arguments.weight_decay,
        **settings,
    )
