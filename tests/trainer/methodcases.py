"""Every method as a run of the tiny model, the method's block read from examples/methods: one source for both."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from finetune_api.load import load_jobs

EXAMPLES = Path(__file__).parents[2] / "examples" / "methods"


@dataclass(frozen=True)
class MethodCase:
    """A method, and what is known of it without our code."""

    method: dict[str, Any]
    trained: str
    """What the names of all trained parameters have in common."""
    tensors: int
    """How many tensors the published file holds: the tiny model has 2 layers of 7 linear modules."""
    training: dict[str, Any] = field(default_factory=dict)
    """The tiny model learns in few steps, at a rate of its own."""
    gain: float = 0.02
    """By how much the held-out loss falls at least, in nats."""


def example(name: str) -> dict[str, Any]:
    """The method's block of an example."""
    (job,) = load_jobs((EXAMPLES / f"{name}.yaml").read_text())
    return job.spec.method.model_dump(mode="json", by_alias=True, exclude_unset=True)


def groups(name: str) -> dict[str, Any]:
    """The parameter groups of an example, as keywords of a run's training."""
    (job,) = load_jobs((EXAMPLES / f"{name}.yaml").read_text())
    return job.spec.training.model_dump(mode="json", by_alias=True, include={"parameter_groups"}, exclude_unset=True)


def _lora(method: dict[str, Any], tensors: int = 28, **training: Any) -> MethodCase:
    return MethodCase(method, "lora_", tensors, training, gain=0.2)


CASES = {
    "qlora": _lora(example("qlora")),
    "int8": _lora(example("int8")),
    "lora": _lora(example("lora")),
    "rslora": _lora(example("rslora")),
    "dora": _lora(example("dora"), tensors=42),
    "lora-plus": _lora(example("lora-plus")),
    "pissa": _lora(example("pissa")),
    "lora-with-head": MethodCase(example("lora-with-head"), "", 29, gain=0.2),
    "learning-rates": MethodCase(example("learning-rates"), "", 29, groups("learning-rates"), gain=0.2),
    "adalora": MethodCase(example("adalora"), "lora_", 42, {"learningRate": "2e-2", "maxSteps": 10}, gain=0.1),
    "ia3": MethodCase(example("ia3"), "ia3_", 6, {"learningRate": "5e-2"}),
    "prefix-tuning": MethodCase(example("prefix-tuning"), "prompt_encoder", 1, {"learningRate": "5e-2"}),
    "prompt-tuning": MethodCase(example("prompt-tuning"), "prompt_encoder", 1, {"learningRate": "5e-2"}),
    "p-tuning": MethodCase(example("p-tuning"), "prompt_encoder", 1),
    # Not in the examples, but with code of their own, here or in the libraries.
    "fp4 packed": _lora({"quantization": {"type": "FP4", "doubleQuantization": False, "storage": "Float32"}}),
    "dora on int8": _lora({"useDoRA": True, "quantization": {"type": "INT8"}}, tensors=42),
    "olora": _lora({"type": "LoRA", "initialization": "OLoRA", "useRSLoRA": True}),
    "orthogonal": _lora({"type": "LoRA", "initialization": "Orthogonal"}),
    "gaussian": _lora({"initialization": "Gaussian"}),
    "ia3 on nf4": MethodCase({"type": "IA3", "quantization": {"type": "NF4"}}, "ia3_", 6, {"learningRate": "5e-2"}),
    "prompt on int8": MethodCase(
        {"type": "PromptTuning", "quantization": {"type": "INT8"}}, "prompt_encoder", 1, {"learningRate": "5e-2"}
    ),
}


def plain_base(folder: Path, method: dict[str, Any]) -> Any:
    """The base model by transformers alone, quantized as `method` says; 8-bit weights are multiplied out by hand."""
    quantization = method.get("quantization") or ({"type": "NF4"} if method.get("type", "QLoRA") == "QLoRA" else None)
    if quantization is None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if quantization["type"] == "INT8":
        return _int8_by_hand(folder)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization["type"].lower(),
        bnb_4bit_use_double_quant=quantization.get("doubleQuantization", True),
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config).eval()
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # or it would round its scales on some CPUs
    return base


def _int8_by_hand(folder: Path) -> Any:
    """Each row of a linear layer as whole numbers up to 127 times its largest absolute value, in float16."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            half = module.weight.data.half()
            scale = half.abs().amax(dim=1, keepdim=True).float()
            module.weight.data = torch.round(half * (127.0 / scale)) * (scale / 127.0)
    return base
