"""Where the result goes, and what else is made of it."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import Object, TargetURI


class WeightType(StrEnum):
    """The dtype of published weights."""

    BFLOAT16 = "BFloat16"
    FLOAT16 = "Float16"
    FLOAT32 = "Float32"


class Merge(Object):
    """A whole model with the adapter in its weights, beside the adapter in `<output>/merged/`.

    The sum is made in float32 on the CPU, onto the base as it was trained on (a quantized one dequantized), so
    resources.memory must hold the model at 4 bytes a parameter.
    """

    dtype: Annotated[WeightType, Field(strict=False)] = WeightType.BFLOAT16
    """What the sum is rounded to. Small updates get lost in 16 bits: see minGainKeptPercent."""
    min_gain_kept_percent: Annotated[int, Field(ge=1, le=100)] = 90
    """The held-out loss of the merged model, measured, must keep this share of what training gained. Else the adapter
    is published alone, and the job fails with MergeRefused."""


class VLLM(Object):
    """Check before publishing that vLLM can serve the adapter: features, rank, the names and shapes of its tensors."""

    max_lora_rank: Annotated[int, Field(ge=1, le=512, alias="maxLoRARank")] = 16
    """As the server is started with (--max-lora-rank)."""


class Output(Object):
    """Where the result goes, and what else is made of it."""

    uri: TargetURI
    """Prefix of the adapter: s3://bucket/prefix or pvc://claim/path. manifest.json is written there last."""
    merge: Merge | None = None
    """Publish a merged model as well. LoRA and its variants, and IA3; needs dataset.evaluation."""
    vllm: VLLM | None = None
    """Refuse to publish an adapter that vLLM would not load. LoRA and QLoRA without useDoRA and modulesToSave."""
