"""A method in words, in full, for the model card."""

from finetune_api.v1alpha1 import Initialization, Method, MethodType, Quantization, QuantizationType
from finetune_trainer.methods.adalora import target_rank
from finetune_trainer.methods.virtual_tokens import DEFAULT

_NAMES = {
    MethodType.QLORA: "LoRA",
    MethodType.LORA: "LoRA",
    MethodType.ADALORA: "AdaLoRA",
    MethodType.IA3: "IA3",
    MethodType.PREFIX_TUNING: "prefix tuning",
    MethodType.PROMPT_TUNING: "prompt tuning",
    MethodType.P_TUNING: "p-tuning",
    MethodType.FULL: "full",
}


def library(method: Method) -> str:
    """What loads the result."""
    return "transformers" if method.type is MethodType.FULL else "peft"


def tags(method: Method) -> list[str]:
    """Words that a hub finds the adapter by."""
    return [_NAMES[method.type].lower().replace(" ", "-")]


def described(method: Method) -> str:
    """For instance `LoRA adapter (rank 16, alpha 32, dropout 0.05, all-linear)`."""
    if method.type is MethodType.FULL:
        return "Full fine-tuning (every weight, published in float32)"
    return f"{_NAMES[method.type]} adapter ({', '.join(_numbers(method))})"


def stored(method: Method) -> str:
    """How the base was stored while it was trained on."""
    quantization = method.base_quantization
    return _quantized(quantization) if quantization else "in its own precision"


def _numbers(method: Method) -> list[str]:
    whole = [f"{', '.join(method.modules_to_save)} trained whole"] if method.modules_to_save else []
    match method.type:
        case MethodType.QLORA | MethodType.LORA:
            return [*_size(method), *_variants(method), *whole]
        case MethodType.ADALORA:
            return [*_size(method), f"pruned to a mean rank of {target_rank(method)}", *whole]
        case MethodType.IA3:
            return ["one factor a channel", *whole]
        case _:
            return [f"{method.virtual_tokens or DEFAULT} virtual tokens"]


def _size(method: Method) -> list[str]:
    modules = ", ".join(method.target_modules)
    return [f"rank {method.rank}", f"alpha {method.alpha}", f"dropout {method.dropout}", f"on {modules}"]


def _variants(method: Method) -> list[str]:
    told = []
    if method.use_rslora:
        told.append("rank-stabilised")
    if method.use_dora:
        told.append("DoRA")
    if method.lora_plus_ratio:
        told.append(f"LoRA+ with ratio {method.lora_plus_ratio}")
    if method.initialization is not Initialization.DEFAULT:
        told.append(f"{method.initialization} start")
    if method.initialization.changes_base:
        told.append(f"published as the difference to it, of rank {2 * method.rank}")
    return told


def _quantized(quantization: Quantization) -> str:
    if quantization.type is QuantizationType.INT8:
        return "in 8 bits (LLM.int8)"
    return f"in 4 bits ({quantization.type}{', double quantization' if quantization.double_quantization else ''})"
