"""An adapter that vLLM would not load is found before it is published, by its configuration, names and shapes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.publish.vllm import check_vllm
from finetune_trainer.training.model import linear_layers

WEIGHTS = "adapter_model.safetensors"
Tensors = dict[str, torch.Tensor]


def save(model: Path, folder: Path, config: Any) -> Path:
    """An adapter as plain peft saves it."""
    base = AutoModelForCausalLM.from_pretrained(model)
    get_peft_model(base, config).save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def good(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain LoRA of rank 8 on every linear layer."""
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return save(model, tmp_path_factory.mktemp("adapter"), config)


def test_the_layers_are_those_in_the_files(model: Path) -> None:
    """Seven linear layers in each of two blocks, with the shapes that the safetensors file has; no output head."""
    weights = load_file(model / "model.safetensors")
    matrices = {n.removesuffix(".weight"): tuple(t.shape) for n, t in weights.items() if "proj" in n}
    assert linear_layers(model) == matrices
    assert len(matrices) == 14


def test_a_plain_lora_is_good(good: Path, model: Path) -> None:
    """And what is said of it are its numbers."""
    assert "14 modules of rank 8" in check_vllm(good, linear_layers(model), 8)


def _rename(tensors: Tensors, old: str, new: str) -> Tensors:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def _cut(tensors: Tensors, name: str) -> Tensors:
    return {n: t[:, :-1].contiguous() if n.endswith(name) else t for n, t in tensors.items()}


SPOILT: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a layer that is not there": (lambda t: _rename(t, "layers.1.", "layers.7."), "belongs to no linear layer"),
    "names of another library": (lambda t: _rename(t, "lora_A.weight", "lora_down.weight"), "is no LoRA weight"),
    "names of a training wrapper": (lambda t: _rename(t, "lora_A.", "lora_A.default."), "is no LoRA weight"),
    "no prefix": (lambda t: _rename(t, "base_model.model.", ""), "is no LoRA weight"),
    "another width": (lambda t: _cut(t, "0.mlp.down_proj.lora_A.weight"), r"is \[8, 127\] instead of \[8, 128\]"),
    "another rank": (lambda t: _cut(t, "0.mlp.down_proj.lora_B.weight"), r"is \[64, 7\] instead of \[64, 8\]"),
    "half a module": (lambda t: {n: x for n, x in t.items() if "1.mlp.up_proj.lora_B" not in n}, "only one of its two"),
    "nothing": (lambda _: {}, "it has no tensors"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_tensors_that_do_not_fit(name: str, good: Path, model: Path, tmp_path: Path) -> None:
    """Each is named, with what it should be."""
    folder = Path(shutil.copytree(good, tmp_path / "spoilt"))
    spoil, words = SPOILT[name]
    save_file(spoil(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    with pytest.raises(RunError, match=words) as caught:
        check_vllm(folder, linear_layers(model), 16)
    assert caught.value.reason is Reason.VERIFICATION_FAILED


LORA = {"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
KINDS: dict[str, tuple[Any, str]] = {
    "DoRA": (LoraConfig(**LORA, use_dora=True), "use_dora is True"),
    "a head": (LoraConfig(**LORA, modules_to_save=["lm_head"]), "modules_to_save is ['lm_head']"),
    "biases": (LoraConfig(**LORA, bias="all"), "bias is all, not none"),
    "a rank too high": (LoraConfig(**LORA | {"r": 17}), "its rank 17 is above output.vllm.maxLoRARank 16"),
    "ranks of their own": (LoraConfig(**LORA, rank_pattern={"q_proj": 4}), "ranks of their own"),
    "IA3": (
        IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]),
        "peft_type is IA3, not LORA",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_vllm_does_not_serve(kind: str, model: Path, tmp_path: Path) -> None:
    """As peft itself saves them; the reason is final, for another try would end the same way."""
    config, words = KINDS[kind]
    with pytest.raises(RunError, match=re.escape(words)) as caught:
        check_vllm(save(model, tmp_path, config), linear_layers(model), 16)
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert json.loads((tmp_path / "adapter_config.json").read_bytes())  # peft did save it
