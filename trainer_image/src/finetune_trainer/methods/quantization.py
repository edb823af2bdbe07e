"""How the frozen base is stored: 4 bits (QLoRA, https://arxiv.org/abs/2305.14314) or 8 (https://arxiv.org/abs/2208.07339)."""

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from transformers import BitsAndBytesConfig

from finetune_api.v1alpha1 import Method, MethodType, Precision, QuantizationType, StorageType

_STORAGE = {
    StorageType.UINT8: torch.uint8,
    StorageType.BFLOAT16: torch.bfloat16,
    StorageType.FLOAT16: torch.float16,
    StorageType.FLOAT32: torch.float32,
}


def compute_dtype(precision: Precision) -> torch.dtype:
    """The dtype that forward and backward compute in. Float16 is for GPUs older than bfloat16."""
    if precision is not Precision.AUTO:
        return {
            Precision.BFLOAT16: torch.bfloat16,
            Precision.FLOAT16: torch.float16,
            Precision.FLOAT32: torch.float32,
        }[precision]
    if not torch.cuda.is_available():
        return torch.float32
    # torch also counts GPUs that only emulate bfloat16, many times slower than float16.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def stored_dtype(method: Method, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the loaded weights: `dtype` for a frozen base; float32 where they move: small steps count."""
    return torch.float32 if method.type is MethodType.FULL else dtype


def quantization_config(method: Method, dtype: torch.dtype, exact: list[str] | None = None) -> Any:
    """The BitsAndBytesConfig of a method; None where the base keeps its own precision.

    Embeddings, norms and the output head are never quantized, and stay in `dtype`: peft's
    prepare_model_for_kbit_training would raise them to float32, half as much memory again, for nothing. `exact` names
    more modules that are not; with it, a model has no output head that transformers would find by itself.
    """
    quantization = method.base_quantization
    if quantization is None:
        return None
    if quantization.type is QuantizationType.INT8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=exact)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=exact,
        bnb_4bit_quant_type=quantization.type.lower(),
        bnb_4bit_use_double_quant=quantization.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=_STORAGE[quantization.storage],
    )


def keep_exact_on_cpu(model: Any) -> None:
    """Let a quantized model evaluate on a CPU as it trains there. bitsandbytes 0.50 would not, in two ways.

    4 bits, CPUs with AVX512-BF16: the first forward in eval mode packs the weights anew and rounds their scales to
    bfloat16, for good (`Linear4bit.forward`). The packed product has no backward: training after an evaluation would
    get no gradient through the base, in silence, and a fresh base would not compute what was trained.

    8 bits, all CPUs: training multiplies by the dequantized weights, evaluation rounds its inputs to 8 bits as well
    (`bitsandbytes.matmul`), and which of them it spares depends on the other rows of the batch.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif type(module) is Linear8bitLt and module.weight.device.type == "cpu":
            module.__class__ = _DequantizedLinear


class _DequantizedLinear(Linear8bitLt):  # type: ignore[misc]  # bitsandbytes publishes no types
    """An 8-bit layer that multiplies by its dequantized weights in eval mode, too. A lone layer has no other modes."""

    training: bool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute as in training."""
        if self.state.SCB is not None and self.weight.SCB is None:
            self.weight.CB = None  # peft's DoRA moves the weight, which then claims to hold scales again
        was_training, self.training = self.training, True
        try:
            result = super().forward(x)
        finally:
            self.training = was_training
        assert isinstance(result, torch.Tensor)  # noqa: S101 - for the type checker
        return result
