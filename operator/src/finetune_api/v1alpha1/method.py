"""How the model is tuned."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import LIST_SET, Decimal, Object, Rule


class MethodType(StrEnum):
    """How the model is tuned."""

    QLORA = "QLoRA"
    LORA = "LoRA"


class Quantization(Object):
    """How QLoRA stores the frozen base weights (https://arxiv.org/abs/2305.14314)."""

    type: Literal["NF4"] = "NF4"
    """The 4-bit data type."""
    double_quantization: bool = True
    """Quantize the quantization constants too; saves about 0.4 bit a parameter."""


class Method(Object):
    """The fine-tuning method and its size."""

    rules = (
        Rule(
            cel="self.type == 'QLoRA' || !has(self.quantization)",
            holds=lambda m: m.type is MethodType.QLORA or m.quantization is None,
            message="method.quantization goes with type QLoRA only; remove it or set type: QLoRA",
            field="quantization",
        ),
        Rule(
            cel="double(self.dropout) < 1.0",
            holds=lambda m: float(m.dropout) < 1,
            message='method.dropout must be below 1, for instance "0.05"',
            field="dropout",
        ),
    )
    type: Annotated[MethodType, Field(strict=False)] = MethodType.QLORA
    """QLoRA: LoRA on a 4-bit base. LoRA: the base keeps its own precision."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the adapter's matrices."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """The update is scaled by alpha / rank."""
    dropout: Decimal = "0.05"
    """Dropout on the adapter's input, 0 to below 1."""
    target_modules: Annotated[
        list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", min_length=1, max_length=128)]],
        Field(min_length=1, max_length=64, json_schema_extra=LIST_SET),
    ] = ["all-linear"]
    """Module names that get an adapter, or all-linear: every linear layer but the output head."""
    quantization: Quantization | None = None
    """How the base is quantized; QLoRA only. Defaults to NF4 with double quantization."""
