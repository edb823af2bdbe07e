"""The 4-bit storage of the frozen base (QLoRA, https://arxiv.org/abs/2305.14314)."""

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import BitsAndBytesConfig

from finetune_api.v1alpha1 import Method, MethodType, Precision, Quantization


def compute_dtype(precision: Precision) -> torch.dtype:
    """The dtype that forward and backward compute in."""
    if precision is Precision.BFLOAT16:
        return torch.bfloat16
    if precision is Precision.AUTO and torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def quantization_config(method: Method, dtype: torch.dtype) -> Any:
    """The BitsAndBytesConfig of a method; None where the base keeps its own precision.

    Embeddings, norms and the output head are never quantized, and stay in `dtype`: peft's
    prepare_model_for_kbit_training would raise them to float32, half as much memory again, for nothing.
    """
    if method.type is not MethodType.QLORA:
        return None
    quantization = method.quantization or Quantization()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type.lower(),
        bnb_4bit_use_double_quant=quantization.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_exact_on_cpu(model: Any) -> None:
    """Forbid bitsandbytes to rewrite 4-bit weights for a faster evaluation on CPUs with AVX512-BF16.

    Its first forward in eval mode packs the weights anew and rounds their scales to bfloat16, for good (bitsandbytes
    0.50, `Linear4bit.forward`). The packed product has no backward: training after an evaluation would get no gradient
    through the base, in silence, and a fresh base would not compute what was trained.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
