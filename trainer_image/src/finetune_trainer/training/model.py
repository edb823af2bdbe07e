"""Load the base model from a local folder; safetensors only, no code from the folder is ever run."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Method
from finetune_trainer.errors import RunError
from finetune_trainer.methods.quantization import keep_exact_on_cpu, quantization_config
from finetune_trainer.sharding.fsdp import share_out
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.tasks.head import bones, head_modules, task_config
from finetune_trainer.tasks.task import Task
from finetune_trainer.tokenizer import BROKEN, unloadable
from finetune_trainer.training.hooks import make_model


def check_files(folder: Path) -> None:
    """Check that the folder holds a readable config and readable safetensors; reads headers only.

    Raises:
        RunError: ModelNotFound, UnsafeModel or InvalidConfiguration, naming the file.
    """
    config = folder / "config.json"
    if not config.exists():
        raise RunError(Reason.MODEL_NOT_FOUND, "the model has no config.json", "Check model.uri.")
    try:
        json.loads(config.read_bytes())
    except ValueError as error:
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"the model's config.json is not valid JSON: {error}",
            "Upload the model again.",
        ) from None
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(pattern))]
        if pickles:
            raise RunError(
                Reason.UNSAFE_MODEL,
                f"the model has {pickles[0]} but no safetensors; pickle files can run code and are not loaded",
                "Convert the weights to safetensors.",
            )
        raise RunError(Reason.MODEL_NOT_FOUND, "the model has no *.safetensors file", "Check model.uri.")
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise RunError(
                Reason.INVALID_CONFIGURATION,
                f"the model's {path.name} is not a whole safetensors file: {error}",
                "Upload the model again.",
            ) from None


def linear_layers(folder: Path) -> dict[str, tuple[int, ...]]:
    """The weight shape, [out, in], of every linear layer but the output head, by name; only config.json is read."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = CausalLM.auto_class.from_config(config)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {
        name: tuple(layer.weight.shape) for name, layer in layers.items() if layer is not model.get_output_embeddings()
    }


def load_base(
    folder: Path,
    method: Method,
    dtype: torch.dtype,
    device: torch.device,
    task: Task | None = None,
    seed: int = 0,
    factory: str | None = None,
    shares: int = 1,
) -> Any:
    """Load the base model as `method` wants it stored, on `device`; by the entry point `factory` where there is one.

    Of several `shares`, one process each, it is its own share.

    Of a task with a head of its own the head may be missing in the files, or be another task's: then it starts random,
    by `seed`.

    Raises:
        RunError: InvalidConfiguration: unknown architecture, or weights that are missing or of the wrong shape.
    """
    if factory is not None:
        return make_model(factory, folder, dtype, device)
    task = task or CausalLM()
    try:
        options = _head_options(folder, task, method, seed) if task.kind.has_head else {}
        model, report = task.auto_class.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=quantization_config(method, dtype, options.pop("exact", None)),
            **({"device_map": {"": device}} if shares == 1 else {"distributed_config": share_out(shares)}),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except BROKEN as error:
        raise unloadable("model", error) from error
    # transformers fills missing weights with random numbers and a warning; a run on them would be worthless.
    heads = tuple(f"{name}." for name in head_modules(model, task))
    mismatched = [key[0] if isinstance(key, tuple) else str(key) for key in report["mismatched_keys"]]
    missing = [key for key in (*sorted(report["missing_keys"]), *sorted(mismatched)) if not key.startswith(heads)]
    if missing:
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"the model's files lack {len(missing)} weights, for instance {missing[0]}",
            "Upload the model again, with all its safetensors files.",
        )
    keep_exact_on_cpu(model)
    if shares > 1:
        # FSDP holds two tensors of each weight. Those that peft could freeze after a forward would be the wrong ones.
        model.requires_grad_(False)
    return model


def _head_options(folder: Path, task: Task, method: Method, seed: int) -> dict[str, Any]:
    """What loads a model with a head that may be new: a head is never quantized, for it is trained."""
    torch.manual_seed(seed)
    exact = head_modules(bones(folder, task, torch.float32), task) if method.base_quantization else None
    return {"config": task_config(folder, task), "ignore_mismatched_sizes": True, "exact": exact}
