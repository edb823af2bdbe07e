"""An adapter that was trained before: what method it is of, and whether it fits the base."""

import json
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Method, MethodType
from finetune_trainer.errors import RunError
from finetune_trainer.methods.adapter import WEIGHTS

CONFIG = "adapter_config.json"
_KINDS = {
    "LORA": (MethodType.QLORA, MethodType.LORA),
    "IA3": (MethodType.IA3,),
    "PREFIX_TUNING": (MethodType.PREFIX_TUNING,),
    "PROMPT_TUNING": (MethodType.PROMPT_TUNING,),
}
_LORA = {
    "rank": ("r", 8),
    "alpha": ("lora_alpha", 8),
    "target_modules": ("target_modules", None),
    "modules_to_save": ("modules_to_save", None),
    "use_rslora": ("use_rslora", False),
    "use_dora": ("use_dora", False),
}
"""Field of ours: peft's field, and its value where the file has none."""
_FIELDS: dict[MethodType, dict[str, tuple[str, Any]]] = {
    MethodType.QLORA: _LORA,
    MethodType.LORA: _LORA,
    MethodType.IA3: {"modules_to_save": ("modules_to_save", None)},
    MethodType.PREFIX_TUNING: {"virtual_tokens": ("num_virtual_tokens", 20)},
    MethodType.PROMPT_TUNING: {"virtual_tokens": ("num_virtual_tokens", 20)},
}
_UNKNOWN = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "exclude_modules",
    "layer_replication",
    "layers_to_transform",
    "prefix_projection",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
)
"""What peft can do and a job file cannot say: an adapter that uses it would be trained as another one."""


def method_of(folder: Path, wanted: Method) -> Method:
    """`wanted` with the adapter's own fields; how the base is stored and what is for training only stays as wanted.

    Raises:
        RunError: InvalidConfiguration for a field of `wanted` that is not its default and not the adapter's.
    """
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        types = _KINDS[config["peft_type"]]
    except (ValueError, KeyError, TypeError) as error:
        kinds = ", ".join(_KINDS)
        raise _refused(f"model.adapter: {CONFIG} is of no method that can be trained on ({kinds})", "") from error
    if wanted.type not in types:
        listed = " or ".join(types)
        raise _refused(f"method.type: {wanted.type} is not the adapter's, which is {listed}", f"Set type: {listed}.")
    foreign = [name for name in _UNKNOWN if config.get(name)] + (
        ["bias"] if config.get("bias", "none") != "none" else []
    )
    if foreign:
        raise _refused(f"model.adapter: it uses {', '.join(foreign)}, which cannot be trained on here", "")
    own: dict[str, Any] = {}
    for field, (name, default) in _FIELDS[wanted.type].items():
        value = config.get(name, default)
        own[field] = sorted(value or []) if field in ("target_modules", "modules_to_save") else value
        _agree(field, wanted, own[field])
    return wanted.model_copy(update=own)


def _agree(field: str, wanted: Method, own: Any) -> None:
    asked = getattr(wanted, field)
    given = sorted(asked) if isinstance(asked, list) else asked
    info = Method.model_fields[field]
    if asked != info.default and given != own:
        raise _refused(
            f"method.{info.alias}: {asked} is not the adapter's, which has {own}", f"Remove method.{info.alias}."
        )


def load_given(model: Any, folder: Path) -> None:
    """Put the numbers of a given adapter into a fresh one.

    Raises:
        RunError: InvalidConfiguration where names or shapes differ, so that it was trained on another base.
    """
    try:
        given = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise _refused(f"model.adapter: {WEIGHTS} is no whole safetensors file: {error}", "") from error
    fresh = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name in sorted(fresh.keys() ^ given.keys()):
        whose = "the adapter lacks" if name in fresh else "the base has no place for"
        raise _refused(f"model.adapter does not fit the base: {whose} {name}", "")
    for name, tensor in given.items():
        if tensor.shape != fresh[name].shape:
            shapes = f"{list(tensor.shape)} in the adapter, {list(fresh[name].shape)} here"
            raise _refused(f"model.adapter does not fit the base: {name} is {shapes}", "")
    set_peft_model_state_dict(model, given)


def _refused(message: str, hint: str) -> RunError:
    return RunError(Reason.INVALID_CONFIGURATION, message, hint or "Use an adapter of this base model, or none.")
