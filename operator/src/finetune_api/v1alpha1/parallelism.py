"""How the processes of one run share its work and its memory, and what does not go together with that."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from finetune_api.base import Object, Rule
from finetune_api.v1alpha1.method import Initialization, Method, MethodType, QuantizationType
from finetune_api.v1alpha1.optimizer import OptimizerType


class Strategy(StrEnum):
    """What each process holds: everything, or a share of it."""

    DDP = "DDP"
    ZERO2 = "ZeRO2"
    ZERO3 = "ZeRO3"
    FSDP = "FSDP"

    @property
    def shares_weights(self) -> bool:
        """Whether a process holds only its share of the base between two layers."""
        return self in (Strategy.ZERO3, Strategy.FSDP)

    @property
    def is_zero(self) -> bool:
        """Whether DeepSpeed does it."""
        return self in (Strategy.ZERO2, Strategy.ZERO3)


class Parallelism(Object):
    """How the processes share the work; the configuration of DeepSpeed or FSDP is made from it."""

    strategy: Annotated[Strategy, Field(strict=False)] = Strategy.DDP
    """DDP: each process holds the whole model. ZeRO2 (DeepSpeed): gradients and optimizer state are shared out. ZeRO3:
    the base weights, too. FSDP (torch's FSDP2): the base weights are shared out from the moment they are read."""


_OPTIMIZERS = (OptimizerType.ADAMW, OptimizerType.ADAMW_FUSED)
_LORA = (MethodType.QLORA, MethodType.LORA)


def is_plain_lora(method: Method) -> bool:
    """Whether nothing but A and B is trained, and neither needs a whole weight of the base to begin or to compute."""
    whole = method.use_dora or method.modules_to_save or method.initialization.changes_base
    return not whole and method.initialization is not Initialization.ORTHOGONAL


def _quantized_to(method: Method, *kinds: QuantizationType) -> bool:
    quantization = method.base_quantization
    return quantization is not None and quantization.type in kinds


def _strategy(spec: Any) -> Strategy:
    found: Strategy = spec.training.parallelism.strategy
    return found


_IS_DDP = "self.training.parallelism.strategy == 'DDP'"
_IS_ZERO = "self.training.parallelism.strategy in ['ZeRO2', 'ZeRO3']"
_SHARES_WEIGHTS = "self.training.parallelism.strategy in ['ZeRO3', 'FSDP']"


def _not_yet(field: str, cel: str, holds: Callable[[Any], bool], remedy: str) -> Rule:
    """What works with DDP alone."""
    return Rule(
        cel=f"{_IS_DDP} || {cel}",
        holds=lambda s: _strategy(s) is Strategy.DDP or holds(s),
        message=f"{field} does not go with training.parallelism.strategy ZeRO2, ZeRO3 and FSDP yet; {remedy}, or set "
        "strategy: DDP",
        field=field,
    )


PARALLELISM_RULES = (
    Rule(
        cel=f"{_IS_DDP} || self.resources.gpus > 1 || self.resources.nodes > 1",
        holds=lambda s: _strategy(s) is Strategy.DDP or s.resources.processes > 1,
        message="training.parallelism.strategy ZeRO2, ZeRO3 and FSDP share a run out among GPUs, one process each; set "
        "resources.gpus or resources.nodes to 2 or more, or strategy: DDP",
        field="training.parallelism.strategy",
    ),
    Rule(
        cel=f"{_IS_DDP} || self.method.type in ['QLoRA', 'LoRA']",
        holds=lambda s: _strategy(s) is Strategy.DDP or s.method.type in _LORA,
        message="training.parallelism.strategy ZeRO2, ZeRO3 and FSDP go with method.type QLoRA and LoRA; set one of "
        "those, or strategy: DDP",
        field="training.parallelism.strategy",
    ),
    Rule(
        cel=f"!({_SHARES_WEIGHTS}) || !self.method.useDoRA && size(self.method.modulesToSave) == 0 && "
        "self.method.initialization in ['Default', 'Gaussian']",
        holds=lambda s: not _strategy(s).shares_weights or is_plain_lora(s.method),
        message="training.parallelism.strategy ZeRO3 and FSDP share out the weights that method.useDoRA, modulesToSave "
        "and initialization Orthogonal, OLoRA and PiSSA need whole; remove those, or set strategy: ZeRO2",
        field="training.parallelism.strategy",
    ),
    Rule(
        cel="self.training.parallelism.strategy != 'FSDP' || self.method.type != 'QLoRA'",
        holds=lambda s: _strategy(s) is not Strategy.FSDP or s.method.type is not MethodType.QLORA,
        message="training.parallelism.strategy FSDP reads its share of a base that is not quantized; set "
        "method.type: LoRA, or strategy: ZeRO3",
        field="training.parallelism.strategy",
    ),
    Rule(
        cel="self.training.parallelism.strategy != 'ZeRO3' || !has(self.method.quantization) || "
        "self.method.quantization.type != 'INT8'",
        holds=lambda s: _strategy(s) is not Strategy.ZERO3 or not _quantized_to(s.method, QuantizationType.INT8),
        message="training.parallelism.strategy ZeRO3 does not share out INT8 weights, which stay whole beside it; set "
        "method.quantization.type: NF4, or strategy: ZeRO2",
        field="training.parallelism.strategy",
    ),
    Rule(
        cel=f"!({_IS_ZERO}) || self.training.optimizer.type in ['AdamW', 'AdamWFused']",
        holds=lambda s: not _strategy(s).is_zero or s.training.optimizer.type in _OPTIMIZERS,
        message="training.parallelism.strategy ZeRO2 and ZeRO3 cut the optimizer's state anywhere, which only AdamW "
        "and AdamWFused do not mind; set training.optimizer.type to one of those, or strategy: DDP",
        field="training.optimizer.type",
    ),
    Rule(
        cel=f"!({_IS_ZERO}) || !has(self.method.loraPlusRatio)",
        holds=lambda s: not _strategy(s).is_zero or s.method.lora_plus_ratio is None,
        message="method.loraPlusRatio does not go with training.parallelism.strategy ZeRO2 and ZeRO3; remove it, "
        "or set strategy: DDP",
        field="method.loraPlusRatio",
    ),
    Rule(
        cel=f"!({_IS_ZERO}) || size(self.training.parameterGroups) == 0",
        holds=lambda s: not _strategy(s).is_zero or not s.training.parameter_groups,
        message="training.parameterGroups does not go with training.parallelism.strategy ZeRO2 and ZeRO3; remove it, "
        "or set strategy: DDP",
        field="training.parameterGroups",
    ),
    Rule(
        cel=f"{_IS_DDP} || self.training.precision != 'Float16'",
        holds=lambda s: _strategy(s) is Strategy.DDP or s.training.precision.value != "Float16",
        message="training.precision Float16 goes with training.parallelism.strategy DDP only; set BFloat16 or Float32, "
        "or strategy: DDP",
        field="training.precision",
    ),
    _not_yet("evaluation.keepBest", "!self.evaluation.keepBest", lambda s: not s.evaluation.keep_best, "remove it"),
    _not_yet("task.type", "self.task.type == 'CausalLM'", lambda s: s.task.type.value == "CausalLM", "set CausalLM"),
    _not_yet("output.merge", "!has(self.output.merge)", lambda s: s.output.merge is None, "remove it"),
    _not_yet("extensions.model", "!has(self.extensions.model)", lambda s: s.extensions.model is None, "remove it"),
)
