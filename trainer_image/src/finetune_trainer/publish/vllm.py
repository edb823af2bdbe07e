"""Would vLLM load the adapter? Answered from the files and the base's shapes alone; vLLM itself is not needed.

What it asks of an adapter is in vllm/lora/peft_helper.py, lora_model.py and utils.py of
https://github.com/vllm-project/vllm (seen at 0.23): a plain LoRA, a rank within --max-lora-rank, and for each tensor a
linear layer that the base has. Which layers a model's vLLM implementation leaves out is not known here.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError

_PREFIX = "base_model.model."
_NOT_SERVED = ("use_dora", "modules_to_save", "lora_bias", "trainable_token_indices", "alora_invocation_tokens")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank takes: vllm/config/lora.py."""
Shape = tuple[int, ...]


def check_vllm(folder: Path, linear: Mapping[str, Shape], max_lora_rank: int) -> str:
    """Check a saved adapter; return a sentence with what was seen.

    Args:
        folder: Holds adapter_config.json and adapter_model.safetensors.
        linear: Every linear layer of the base but its output head, [out, in], by its name in transformers.
        max_lora_rank: As the server is started with.

    Raises:
        RunError: InvalidConfiguration for a kind of adapter that vLLM does not serve, VerificationFailed for names or
            shapes that do not fit the base.
    """
    config = json.loads((folder / "adapter_config.json").read_bytes())
    if problems := _features(config, max_lora_rank):
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"vLLM would not load this adapter: {'; '.join(problems)}",
            "Change spec.method, or remove spec.output.vllm to publish the adapter all the same.",
        )
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    if problems := _tensors(shapes, linear, int(config["r"])):
        raise RunError(
            Reason.VERIFICATION_FAILED,
            f"vLLM would not load this adapter: {problems[0]}, and {len(problems) - 1} more of {len(shapes)} tensors",
        )
    return f"vLLM can load the adapter: {len(shapes) // 2} modules of rank {config['r']}, all in the base"


def serve_command(folder: Path, name: str, base: str, revision: str | None) -> str:
    """The command that serves what is in `folder`, which it calls FOLDER; empty for an adapter that vLLM cannot load.

    Args:
        folder: Holds adapter_config.json, or a whole model.
        name: What clients ask for.
        base: The adapter's base model.
        revision: Of it, where it has one.
    """
    if not (folder / "adapter_config.json").exists():
        return f"vllm serve FOLDER --served-model-name {name}"
    config = json.loads((folder / "adapter_config.json").read_bytes())
    if _features(config, _RANKS[-1]):
        return ""
    rank = next(rank for rank in _RANKS if rank >= int(config["r"]))
    at = f" --revision {revision}" if revision else ""
    return f"vllm serve {base}{at} --tokenizer FOLDER --enable-lora --max-lora-rank {rank} --lora-modules {name}=FOLDER"


def _features(config: Mapping[str, object], max_lora_rank: int) -> list[str]:
    """What the configuration says against it."""
    problems = [f"{name} is {config[name]}" for name in _NOT_SERVED if config.get(name)]
    if config.get("peft_type") != "LORA":
        problems.append(f"peft_type is {config.get('peft_type')}, not LORA")
    if config.get("bias") != "none":
        problems.append(f"bias is {config.get('bias')}, not none")
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        problems.append("its modules have ranks of their own")
    rank = config.get("r")
    if not isinstance(rank, int) or rank > max_lora_rank:
        problems.append(f"its rank {rank} is above output.vllm.maxLoRARank {max_lora_rank}")
    return problems


def _tensors(shapes: Mapping[str, Shape], linear: Mapping[str, Shape], rank: int) -> list[str]:
    """What is wrong with the names and shapes of the tensors."""
    if not shapes:
        return ["it has no tensors"]
    problems, seen = [], set()
    for name, shape in shapes.items():
        module, factor = _split(name)
        if not factor:
            problems.append(f"{name} is no LoRA weight")
        elif module not in linear:
            problems.append(f"{name} belongs to no linear layer of the base")
        else:
            seen.add((module, factor))
            out, into = linear[module]
            wanted = (rank, into) if factor == "lora_A" else (out, rank)
            if shape != wanted:
                problems.append(f"{name} is {list(shape)} instead of {list(wanted)}")
    lone = {module for module, _ in seen if not {(module, "lora_A"), (module, "lora_B")} <= seen}
    return problems + [f"{module} has only one of its two factors" for module in sorted(lone)]


def _split(name: str) -> tuple[str, str]:
    """The module of a tensor and which factor it is; an empty factor where the name says none."""
    module, _, factor = name.removesuffix(".weight").rpartition(".")
    known = factor in ("lora_A", "lora_B") and name.startswith(_PREFIX) and name.endswith(".weight")
    return (module.removeprefix(_PREFIX), factor) if known else (name, "")
