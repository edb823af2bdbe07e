"""The 4-bit storage of the frozen base (QLoRA, https://arxiv.org/abs/2305.14314)."""

from typing import Any

import torch
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
