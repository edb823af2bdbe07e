"""How the model is tuned: the method, its size, and how the frozen base is stored."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from finetune_api.base import DISTINCT, LIST_SET, Decimal, Object, Rule


class MethodType(StrEnum):
    """How the model is tuned."""

    QLORA = "QLoRA"
    LORA = "LoRA"
    ADALORA = "AdaLoRA"
    IA3 = "IA3"
    PREFIX_TUNING = "PrefixTuning"
    PROMPT_TUNING = "PromptTuning"
    P_TUNING = "PTuning"
    FULL = "Full"


class QuantizationType(StrEnum):
    """The data type of a quantized weight."""

    NF4 = "NF4"
    FP4 = "FP4"
    INT8 = "INT8"


class StorageType(StrEnum):
    """The dtype of the tensors that 4-bit weights are packed into."""

    UINT8 = "UInt8"
    BFLOAT16 = "BFloat16"
    FLOAT16 = "Float16"
    FLOAT32 = "Float32"


class Initialization(StrEnum):
    """What LoRA's two matrices hold before the first step. The model computes as its base does, whichever is taken."""

    DEFAULT = "Default"
    GAUSSIAN = "Gaussian"
    ORTHOGONAL = "Orthogonal"
    OLORA = "OLoRA"
    PISSA = "PiSSA"

    @property
    def changes_base(self) -> bool:
        """Whether the start is taken out of the base weights, so that the base itself is another one while training."""
        return self in (Initialization.OLORA, Initialization.PISSA)

    @property
    def needs_float32(self) -> bool:
        """Whether the model computes as its base does only up to rounding, which 16 bits make too coarse."""
        return self.changes_base or self is Initialization.ORTHOGONAL


class Quantization(Object):
    """How the frozen base weights are stored."""

    rules = (
        Rule(
            cel="self.type != 'INT8' || self.storage == 'UInt8'",
            holds=lambda q: q.type is not QuantizationType.INT8 or q.storage is StorageType.UINT8,
            message="method.quantization.storage goes with NF4 and FP4 only; remove it: INT8 weights are not packed",
            field="storage",
        ),
    )
    type: Annotated[QuantizationType, Field(strict=False)] = QuantizationType.NF4
    """NF4 or FP4: 4 bits (https://arxiv.org/abs/2305.14314). INT8: LLM.int8 (https://arxiv.org/abs/2208.07339)."""
    double_quantization: bool = True
    """Quantize the constants of NF4 and FP4 too; saves about 0.4 bit a parameter. INT8 has none."""
    storage: Annotated[StorageType, Field(strict=False)] = StorageType.UINT8
    """What 4-bit weights are packed into; sharded training wants the dtype it computes in."""


ModuleNames = Annotated[
    list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", min_length=1, max_length=128)]], DISTINCT
]

LORA_TYPES = (MethodType.QLORA, MethodType.LORA, MethodType.ADALORA)
PROMPT_TYPES = (MethodType.PREFIX_TUNING, MethodType.PROMPT_TUNING, MethodType.P_TUNING)
_PLAIN_LORA = (MethodType.QLORA, MethodType.LORA)
_ADAPTERS = (*LORA_TYPES, MethodType.IA3)
_QUANTIZABLE = tuple(kind for kind in MethodType if kind not in (MethodType.LORA, MethodType.FULL))


def _belongs(field: str, name: str, types: tuple[MethodType, ...], unset: tuple[str, Any], remedy: str = "") -> Rule:
    """`field` (in Python `name`) may differ from what it is when left out, in CEL and Python, with `types` only."""
    *most, last = [str(kind) for kind in types]
    listed = f"{', '.join(most)} and {last}" if most else last
    return Rule(
        cel=f"self.type in {[str(kind) for kind in types]} || {unset[0].format(f'self.{field}')}",
        holds=lambda m: m.type in types or getattr(m, name) == unset[1],
        message=f"method.{field} goes with type {listed} only; remove it{remedy}",
        field=field,
    )


_ABSENT = ("!has({0})", None)
_FALSE = ("!{0}", False)


class Method(Object):
    """The fine-tuning method and its size."""

    rules = (
        _belongs("quantization", "quantization", _QUANTIZABLE, _ABSENT, " or set type: QLoRA"),
        _belongs("rank", "rank", LORA_TYPES, ("{0} == 16", 16)),
        _belongs("alpha", "alpha", LORA_TYPES, ("{0} == 32", 32)),
        _belongs("dropout", "dropout", LORA_TYPES, ("{0} == '0.05'", "0.05")),
        _belongs(
            "targetModules", "target_modules", LORA_TYPES, ("size({0}) == 1 && {0}[0] == 'all-linear'", ["all-linear"])
        ),
        _belongs("modulesToSave", "modules_to_save", _ADAPTERS, ("size({0}) == 0", [])),
        _belongs("useRSLoRA", "use_rslora", _PLAIN_LORA, _FALSE),
        _belongs("useDoRA", "use_dora", _PLAIN_LORA, _FALSE),
        _belongs("loraPlusRatio", "lora_plus_ratio", _PLAIN_LORA, _ABSENT),
        _belongs("initialization", "initialization", _PLAIN_LORA, ("{0} == 'Default'", "Default")),
        _belongs("targetRank", "target_rank", (MethodType.ADALORA,), _ABSENT),
        _belongs("virtualTokens", "virtual_tokens", PROMPT_TYPES, _ABSENT),
        Rule(
            cel="double(self.dropout) < 1.0",
            holds=lambda m: float(m.dropout) < 1,
            message='method.dropout must be below 1, for instance "0.05"',
            field="dropout",
        ),
        Rule(
            cel="!has(self.loraPlusRatio) || double(self.loraPlusRatio) >= 1.0",
            holds=lambda m: m.lora_plus_ratio is None or float(m.lora_plus_ratio) >= 1,
            message='method.loraPlusRatio must be at least 1, for instance "16"',
            field="loraPlusRatio",
        ),
        Rule(
            cel="!has(self.targetRank) || self.targetRank < self.rank",
            holds=lambda m: m.target_rank is None or m.target_rank < m.rank,
            message="method.targetRank must be below method.rank: AdaLoRA starts with rank and prunes to targetRank",
            field="targetRank",
        ),
        Rule(
            cel="self.type != 'AdaLoRA' || self.rank >= 2",
            holds=lambda m: m.type is not MethodType.ADALORA or m.rank >= 2,
            message="method.rank must be at least 2 for type AdaLoRA, which prunes it",
            field="rank",
        ),
        Rule(
            cel="self.type != 'QLoRA' || self.initialization in ['Default', 'Gaussian']",
            holds=lambda m: (
                m.type is not MethodType.QLORA or m.initialization in (Initialization.DEFAULT, Initialization.GAUSSIAN)
            ),
            message="method.initialization OLoRA, PiSSA and Orthogonal do not work on a quantized base; "
            "set Default or Gaussian, or type: LoRA",
            field="initialization",
        ),
        Rule(
            cel="self.initialization != 'Orthogonal' || self.rank % 2 == 0",
            holds=lambda m: m.initialization is not Initialization.ORTHOGONAL or m.rank % 2 == 0,
            message="method.rank must be even for initialization: Orthogonal",
            field="rank",
        ),
        Rule(
            cel="!(self.initialization in ['OLoRA', 'PiSSA']) || !self.useDoRA && !has(self.loraPlusRatio)"
            " && size(self.modulesToSave) == 0",
            holds=lambda m: (
                not m.initialization.changes_base
                or (not m.use_dora and m.lora_plus_ratio is None and not m.modules_to_save)
            ),
            message="method.initialization OLoRA and PiSSA are published as the difference to their start, which is "
            "not known for useDoRA, loraPlusRatio and modulesToSave; remove those or set initialization: Default",
            field="initialization",
        ),
    )
    type: Annotated[MethodType, Field(strict=False)] = MethodType.QLORA
    """QLoRA: LoRA on a quantized base. LoRA: the base keeps its own precision. AdaLoRA: LoRA that gives its rank to the
    layers that need it. IA3: one factor a channel. PrefixTuning, PromptTuning, PTuning: virtual tokens before a row.
    Full: every weight; the whole model is published, in float32."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of LoRA's matrices; AdaLoRA starts with it."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """The update is scaled by alpha / rank, with useRSLoRA by alpha / sqrt(rank)."""
    dropout: Decimal = "0.05"
    """Dropout on the adapter's input, 0 to below 1."""
    target_modules: Annotated[ModuleNames, Field(min_length=1, max_length=64, json_schema_extra=LIST_SET)] = [
        "all-linear"
    ]
    """Module names that get an adapter, or all-linear: every linear layer but the output head."""
    modules_to_save: Annotated[ModuleNames, Field(max_length=16, json_schema_extra=LIST_SET)] = []
    """Modules trained whole and published with the adapter, for instance lm_head. Not all servers load them."""
    use_rslora: Annotated[bool, Field(alias="useRSLoRA")] = False
    """Scale by alpha / sqrt(rank), so that high ranks learn too (https://arxiv.org/abs/2312.03732)."""
    use_dora: Annotated[bool, Field(alias="useDoRA")] = False
    """Train length and direction of each weight apart (https://arxiv.org/abs/2402.09353); slower."""
    lora_plus_ratio: Decimal | None = None
    """LoRA+: how many times faster B learns than A, 1 or more (https://arxiv.org/abs/2402.12354). Unset: as fast."""
    initialization: Annotated[Initialization, Field(strict=False)] = Initialization.DEFAULT
    """Default: A uniform, B zero. Gaussian: A normal, B zero. Orthogonal, OLoRA, PiSSA: type LoRA only."""
    target_rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    """AdaLoRA's mean rank at the end; half of rank when unset."""
    virtual_tokens: Annotated[int, Field(ge=1, le=1024)] | None = None
    """How many virtual tokens PrefixTuning, PromptTuning and PTuning learn; 20 when unset."""
    quantization: Quantization | None = None
    """How the base is quantized; with LoRA and Full never. Unset: NF4 with double quantization for QLoRA, else not."""

    @property
    def base_quantization(self) -> Quantization | None:
        """How the base is stored; None where it keeps its own precision."""
        return self.quantization or (Quantization() if self.type is MethodType.QLORA else None)
