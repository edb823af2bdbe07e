"""Rules about a method or optimizer together with another part of the spec."""

from collections.abc import Callable
from typing import Any

from finetune_api.base import Rule
from finetune_api.v1alpha1.method import LORA_TYPES, Initialization, MethodType
from finetune_api.v1alpha1.optimizer import OptimizerType
from finetune_api.v1alpha1.training import Precision

_PAGED = (OptimizerType.PAGED_ADAMW, OptimizerType.PAGED_ADAMW_8BIT)

_MERGED = (*LORA_TYPES, MethodType.IA3)
_NO_START = (MethodType.ADALORA, MethodType.P_TUNING, MethodType.FULL)


def _elsewhere(cel: str, source: Callable[[Any], str | None]) -> Rule:
    """output.uri is another place than this source; a slash at the end names the same one."""
    theirs, absent = f"self.{cel}.uri", "" if cel == "model" else f"!has(self.{cel}) || "
    return Rule(
        cel=f"{absent}self.output.uri != {theirs} && self.output.uri + '/' != {theirs} && "
        f"self.output.uri != {theirs} + '/'",
        holds=lambda s: not (uri := source(s)) or s.output.uri not in (uri, f"{uri}/", uri.removesuffix("/")),
        message=f"output.uri is {cel}.uri: what is trained on would be overwritten while a retry may still need it; "
        "set a prefix of its own",
        field="output.uri",
    )


COMBINATION_RULES = (
    _elsewhere("model", lambda s: s.model.uri),
    _elsewhere("model.adapter", lambda s: s.model.adapter and s.model.adapter.uri),
    Rule(
        cel="!has(self.model.adapter) || !(self.method.type in ['AdaLoRA', 'PTuning', 'Full'])",
        holds=lambda s: s.model.adapter is None or s.method.type not in _NO_START,
        message="model.adapter does not go with method.type AdaLoRA and PTuning, whose published adapters lack what "
        "training needs, nor with Full; remove it or set another type",
        field="model.adapter",
    ),
    Rule(
        cel="!has(self.model.adapter) || self.method.initialization == 'Default'",
        holds=lambda s: s.model.adapter is None or s.method.initialization is Initialization.DEFAULT,
        message="method.initialization does not go with model.adapter, which is the start; remove one",
        field="method.initialization",
    ),
    Rule(
        cel="self.method.type != 'PrefixTuning' || !self.training.gradientCheckpointing",
        holds=lambda s: s.method.type is not MethodType.PREFIX_TUNING or not s.training.gradient_checkpointing,
        message="training.gradientCheckpointing does not work with method.type PrefixTuning, whose prefix is a cache; "
        "remove it or set method.type: PromptTuning",
        field="training.gradientCheckpointing",
    ),
    Rule(
        cel="self.training.precision != 'Float16' || self.resources.gpus > 0",
        holds=lambda s: s.training.precision is not Precision.FLOAT16 or s.resources.gpus > 0,
        message="training.precision Float16 needs a GPU; set Auto, Float32 or BFloat16 for resources.gpus: 0",
        field="training.precision",
    ),
    Rule(
        cel="!(self.training.optimizer.type in ['PagedAdamW', 'PagedAdamW8bit']) || self.resources.gpus > 0",
        holds=lambda s: s.training.optimizer.type not in _PAGED or s.resources.gpus > 0,
        message="training.optimizer.type PagedAdamW and PagedAdamW8bit need a GPU; set AdamW or AdamW8bit for "
        "resources.gpus: 0",
        field="training.optimizer.type",
    ),
    Rule(
        cel="!(self.method.initialization in ['Orthogonal', 'OLoRA', 'PiSSA']) || "
        "!(self.training.precision in ['BFloat16', 'Float16'])",
        holds=lambda s: (
            not s.method.initialization.needs_float32
            or s.training.precision not in (Precision.BFLOAT16, Precision.FLOAT16)
        ),
        message="method.initialization Orthogonal, OLoRA and PiSSA start as the base only if sums are exact, which "
        "16 bits are not; set training.precision: Float32 or initialization: Default",
        field="training.precision",
    ),
    Rule(
        cel="!has(self.method.loraPlusRatio) || self.training.optimizer.type != 'Adafactor'",
        holds=lambda s: s.method.lora_plus_ratio is None or s.training.optimizer.type is not OptimizerType.ADAFACTOR,
        message="method.loraPlusRatio does not go with training.optimizer.type Adafactor, which scales steps by "
        "itself; remove one",
        field="method.loraPlusRatio",
    ),
    Rule(
        cel="!has(self.output.merge) || has(self.dataset.evaluation)",
        holds=lambda s: s.output.merge is None or s.dataset.evaluation is not None,
        message="output.merge needs dataset.evaluation: what merging costs is measured on held-out rows",
        field="output.merge",
    ),
    Rule(
        cel=f"!has(self.output.merge) || self.method.type in {[str(kind) for kind in _MERGED]}",
        holds=lambda s: s.output.merge is None or s.method.type in _MERGED,
        message="output.merge goes with method.type QLoRA, LoRA, AdaLoRA and IA3 only, whose adapters are weights to "
        "add; remove it",
        field="output.merge",
    ),
    Rule(
        cel="!has(self.output.vllm) || self.method.type in ['QLoRA', 'LoRA'] && !self.method.useDoRA && "
        "size(self.method.modulesToSave) == 0",
        holds=lambda s: (
            s.output.vllm is None
            or (
                s.method.type in (MethodType.QLORA, MethodType.LORA)
                and not s.method.use_dora
                and not s.method.modules_to_save
            )
        ),
        message="output.vllm goes with method.type QLoRA and LoRA without useDoRA and modulesToSave: vLLM serves no "
        "other adapter; remove it or those",
        field="output.vllm",
    ),
    Rule(
        cel="!has(self.output.vllm) || self.method.rank * "
        "(self.method.initialization in ['OLoRA', 'PiSSA'] ? 2 : 1) <= self.output.vllm.maxLoRARank",
        holds=lambda s: (
            s.output.vllm is None
            or s.method.rank * (2 if s.method.initialization.changes_base else 1) <= s.output.vllm.max_lora_rank
        ),
        message="method.rank must be at most output.vllm.maxLoRARank (half of it with initialization OLoRA and PiSSA, "
        "published at twice the rank)",
        field="method.rank",
    ),
    Rule(
        cel="!self.training.autoMicroBatchSize || has(self.resources.gpuMemory) && self.resources.gpus > 0",
        holds=lambda s: (
            not s.training.auto_micro_batch_size or (s.resources.gpu_memory is not None and s.resources.gpus > 0)
        ),
        message="training.autoMicroBatchSize fills a GPU; set resources.gpuMemory, for instance 24Gi, and gpus",
        field="training.autoMicroBatchSize",
    ),
)
