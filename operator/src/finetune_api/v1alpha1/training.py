"""The training run. Fields are named after transformers.TrainingArguments where it has them."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import Count, Decimal, Object, Rule, Seconds
from finetune_api.v1alpha1.extensions import TRACKER_RULE, Trackers
from finetune_api.v1alpha1.optimizer import (
    SCHEDULE_RULES,
    ExtraArguments,
    Optimizer,
    ParameterGroups,
    Scheduler,
    SchedulerOptions,
)
from finetune_api.v1alpha1.parallelism import Parallelism


class Precision(StrEnum):
    """The dtype that training computes in."""

    AUTO = "Auto"
    BFLOAT16 = "BFloat16"
    FLOAT16 = "Float16"
    FLOAT32 = "Float32"


class Checkpoints(Object):
    """Checkpoints go to `<output>/.finetune/<uid>/checkpoints`; a run that was cut off goes on from the newest."""

    every_steps: Count = 50
    """Optimizer steps between two checkpoints."""
    every_epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Also save at the end of every so many epochs."""
    every_seconds: Seconds | None = None
    """Also save when the last checkpoint is this old; unset: by steps only."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """How many checkpoints stay in storage."""


class Divergence(Object):
    """When a run is given up because its loss goes up: the mean of the last steps against the lowest it has been."""

    rules = (
        Rule(
            cel="double(self.factor) == 0.0 || double(self.factor) > 1.0",
            holds=lambda d: float(d.factor) == 0 or float(d.factor) > 1,
            message="training.divergence.factor must be above 1, or 0 to never give up",
            field="factor",
        ),
    )
    factor: Decimal = "3"
    """Give up above this many times the lowest mean; 0 never gives up."""
    steps: Annotated[int, Field(ge=10, le=10_000)] = 100
    """Optimizer steps that the mean is taken over; a single loss counts up to a cap."""


class Training(Object):
    """The training run. Fields are named after transformers.TrainingArguments where it has them."""

    rules = (
        Rule(
            cel="self.batchSize % self.microBatchSize == 0",
            holds=lambda t: t.batch_size % t.micro_batch_size == 0,
            message="training.batchSize must be a multiple of training.microBatchSize",
            field="batchSize",
        ),
        Rule(
            cel="double(self.learningRate) > 0.0 && double(self.learningRate) <= 1.0",
            holds=lambda t: 0 < float(t.learning_rate) <= 1,
            message='training.learningRate must be above 0 and at most 1, for instance "2e-4"',
            field="learningRate",
        ),
        Rule(
            cel="double(self.warmupRatio) < 1.0",
            holds=lambda t: float(t.warmup_ratio) < 1,
            message='training.warmupRatio must be below 1, for instance "0.03"',
            field="warmupRatio",
        ),
        Rule(
            cel="double(self.labelSmoothing) < 1.0",
            holds=lambda t: float(t.label_smoothing) < 1,
            message='training.labelSmoothing must be below 1, for instance "0.1"',
            field="labelSmoothing",
        ),
        *SCHEDULE_RULES,
        TRACKER_RULE,
    )
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    """Times every row is seen."""
    max_steps: Count | None = None
    """Optimizer steps; when set, it wins over epochs."""
    learning_rate: Decimal = "2e-4"
    """Peak learning rate."""
    scheduler: Annotated[Scheduler, Field(strict=False)] = Scheduler.COSINE
    """Linear or Cosine to zero, Constant, CosineWithMinLR, Polynomial, InverseSqrt, or WarmupStableDecay."""
    warmup_ratio: Decimal = "0.03"
    """Share of the steps in which the learning rate rises, 0 to below 1."""
    weight_decay: Decimal = "0"
    """Weight decay of matrices; vectors (norms, biases) have none."""
    max_gradient_norm: Decimal = "1.0"
    """Gradients are clipped to this norm; 0 turns clipping off."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Optimizer steps in which the learning rate rises; in place of warmupRatio."""
    optimizer: Optimizer = Optimizer()
    """What turns gradients into steps."""
    parameter_groups: ParameterGroups = []
    """Modules that learn at a rate, or decay, of their own; what several name belongs to the first."""
    scheduler_options: SchedulerOptions = SchedulerOptions()
    """Numbers of some schedules."""
    neftune_noise_alpha: Decimal | None = None
    """Noise on the embeddings while training (https://arxiv.org/abs/2310.05914), for instance 5; none when unset."""
    label_smoothing: Decimal = "0"
    """Share of each target that is spread over the whole vocabulary, 0 to below 1; evaluations are never smoothed."""
    extra_arguments: ExtraArguments = {}
    """More fields of transformers.TrainingArguments, values as text; those that have a field here are refused."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 16
    """Sequences per optimizer step, over all processes; with packing, packed sequences."""
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Sequences per process and forward pass; changes memory and speed, never the result."""
    auto_micro_batch_size: bool = False
    """Take the largest micro-batch, from microBatchSize up, that the estimate of `prepare` puts into nine tenths of
    resources.gpuMemory. Where it was wrong, the next attempt has half."""
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Longest row in tokens; longer rows are left out and counted. With packing also the longest packed sequence."""
    packing: bool = False
    """Train several rows as one sequence of up to maxLength tokens; each row sees itself only."""
    fast_paths: bool = True
    """Compute the same numbers in less time and memory where the model allows it; false leaves all to the libraries."""
    precision: Annotated[Precision, Field(strict=False)] = Precision.AUTO
    """Auto: BFloat16 on a GPU that has it, Float16 with a scaled loss on an older one, Float32 on a CPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 42
    """Seed of the adapter's start, of the order of rows and of dropout."""
    logging_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Optimizer steps between two log lines."""
    trackers: Trackers = []
    """Where the logged numbers go, beside metrics.jsonl below output.uri."""
    divergence: Divergence = Divergence()
    """When to give up because the loss goes up."""
    hang_timeout_seconds: Seconds | None = None
    """A run in which nothing moves for so long while it trains is ended and tried again; unset: 20 times as long as a
    step takes, at least 120 s."""
    checkpoints: Checkpoints = Checkpoints()
    """When to save, and how much to keep."""
    parallelism: Parallelism = Parallelism()
    """How several processes share the work."""
