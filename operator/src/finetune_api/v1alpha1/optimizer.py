"""The optimizer, the schedule of its learning rate, and the rest of transformers.TrainingArguments."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import LIST_ATOMIC, LIST_SET, Decimal, Object, Rule
from finetune_api.v1alpha1.method import ModuleNames


class OptimizerType(StrEnum):
    """The optimizers, by the names they have in their papers; 8-bit and paged ones are bitsandbytes'."""

    ADAMW = "AdamW"
    ADAMW_FUSED = "AdamWFused"
    ADAMW_8BIT = "AdamW8bit"
    PAGED_ADAMW = "PagedAdamW"
    PAGED_ADAMW_8BIT = "PagedAdamW8bit"
    LION = "Lion"
    ADAFACTOR = "Adafactor"
    SGD = "SGD"


_WITH_BETAS = "['AdamW', 'AdamWFused', 'AdamW8bit', 'PagedAdamW', 'PagedAdamW8bit', 'Lion']"
_WITHOUT_BETAS = (OptimizerType.ADAFACTOR, OptimizerType.SGD)


class Optimizer(Object):
    """The optimizer."""

    rules = (
        Rule(
            cel=f"self.type in {_WITH_BETAS} || !has(self.beta1) && !has(self.beta2)",
            holds=lambda o: o.type not in _WITHOUT_BETAS or (o.beta1 is None and o.beta2 is None),
            message="training.optimizer.beta1 and beta2 do not go with type Adafactor and SGD; remove them",
            field="beta1",
        ),
        Rule(
            cel="!(self.type in ['Adafactor', 'SGD', 'Lion']) || !has(self.epsilon)",
            holds=lambda o: o.type not in (*_WITHOUT_BETAS, OptimizerType.LION) or o.epsilon is None,
            message="training.optimizer.epsilon goes with the AdamW types only; remove it",
            field="epsilon",
        ),
        Rule(
            cel="(!has(self.beta1) || double(self.beta1) < 1.0) && (!has(self.beta2) || double(self.beta2) < 1.0)",
            holds=lambda o: all(beta is None or float(beta) < 1 for beta in (o.beta1, o.beta2)),
            message='training.optimizer.beta1 and beta2 must be below 1, for instance "0.9" and "0.999"',
            field="beta1",
        ),
        Rule(
            cel="!has(self.epsilon) || double(self.epsilon) > 0.0",
            holds=lambda o: o.epsilon is None or float(o.epsilon) > 0,
            message='training.optimizer.epsilon must be above 0, for instance "1e-8"',
            field="epsilon",
        ),
    )
    type: Annotated[OptimizerType, Field(strict=False)] = OptimizerType.ADAMW_FUSED
    """AdamW, AdamWFused (one kernel), AdamW8bit (small state), PagedAdamW and PagedAdamW8bit (GPU only; state moves to
    the host when the GPU is full), Lion, Adafactor, SGD."""
    beta1: Decimal | None = None
    """Decay of the mean of gradients, 0 to below 1; 0.9 when unset."""
    beta2: Decimal | None = None
    """Decay of the mean of their squares (Lion: of its momentum), 0 to below 1; 0.999 when unset."""
    epsilon: Decimal | None = None
    """Added to AdamW's denominator; 1e-8 when unset."""


class ParameterGroup(Object):
    """Trained modules with a learning rate or a weight decay of their own."""

    rules = (
        Rule(
            cel="has(self.learningRate) || has(self.weightDecay)",
            holds=lambda g: g.learning_rate is not None or g.weight_decay is not None,
            message="training.parameterGroups wants a learningRate or a weightDecay in each group; set one, or remove "
            "the group",
            field="learningRate",
        ),
        Rule(
            cel="!has(self.learningRate) || double(self.learningRate) > 0.0 && double(self.learningRate) <= 1.0",
            holds=lambda g: g.learning_rate is None or 0 < float(g.learning_rate) <= 1,
            message='training.parameterGroups: learningRate must be above 0 and at most 1, for instance "1e-3"',
            field="learningRate",
        ),
    )
    modules: Annotated[ModuleNames, Field(min_length=1, max_length=64, json_schema_extra=LIST_SET)]
    """Names of modules, or how they end, as in targetModules: lm_head, layers.0, lora_B. All that is trained below."""
    learning_rate: Decimal | None = None
    """Peak learning rate of these; training.learningRate when unset. The schedule is that of all others."""
    weight_decay: Decimal | None = None
    """Weight decay of the matrices among these; training.weightDecay when unset."""


ParameterGroups = Annotated[list[ParameterGroup], Field(max_length=16, json_schema_extra=LIST_ATOMIC)]


class Scheduler(StrEnum):
    """How the learning rate goes on after the warm-up."""

    LINEAR = "Linear"
    COSINE = "Cosine"
    CONSTANT = "Constant"
    COSINE_WITH_MIN_LR = "CosineWithMinLR"
    POLYNOMIAL = "Polynomial"
    INVERSE_SQRT = "InverseSqrt"
    WARMUP_STABLE_DECAY = "WarmupStableDecay"


class SchedulerOptions(Object):
    """Numbers that some schedules have beside the warm-up."""

    rules = (
        Rule(
            cel="!has(self.minLearningRateRatio) || double(self.minLearningRateRatio) < 1.0",
            holds=lambda o: o.min_learning_rate_ratio is None or float(o.min_learning_rate_ratio) < 1,
            message='training.schedulerOptions.minLearningRateRatio must be below 1, for instance "0.1"',
            field="minLearningRateRatio",
        ),
        Rule(
            cel="!has(self.decayRatio) || double(self.decayRatio) > 0.0 && double(self.decayRatio) <= 1.0",
            holds=lambda o: o.decay_ratio is None or 0 < float(o.decay_ratio) <= 1,
            message='training.schedulerOptions.decayRatio must be above 0 and at most 1, for instance "0.2"',
            field="decayRatio",
        ),
        Rule(
            cel="!has(self.power) || double(self.power) > 0.0",
            holds=lambda o: o.power is None or float(o.power) > 0,
            message='training.schedulerOptions.power must be above 0, for instance "2"',
            field="power",
        ),
    )
    min_learning_rate_ratio: Decimal | None = None
    """CosineWithMinLR, WarmupStableDecay: the last learning rate as a share of the peak, 0 to below 1; 0 when unset."""
    decay_ratio: Decimal | None = None
    """WarmupStableDecay: share of the steps, at the end, in which the learning rate falls; 0.1 when unset."""
    power: Decimal | None = None
    """Polynomial: the exponent; 1 when unset, which is Linear."""


ExtraArguments = Annotated[
    dict[str, Annotated[str, Field(max_length=256)]],
    Field(max_length=32),
]

SCHEDULE_RULES = (
    Rule(
        cel="!has(self.warmupSteps) || self.warmupRatio == '0.03'",
        holds=lambda t: t.warmup_steps is None or t.warmup_ratio == "0.03",
        message="training.warmupSteps and training.warmupRatio exclude each other; remove one",
        field="warmupSteps",
    ),
    Rule(
        cel="!has(self.warmupSteps) || !has(self.maxSteps) || self.warmupSteps < self.maxSteps",
        holds=lambda t: t.warmup_steps is None or t.max_steps is None or t.warmup_steps < t.max_steps,
        message="training.warmupSteps must be below training.maxSteps",
        field="warmupSteps",
    ),
    Rule(
        cel="!has(self.schedulerOptions.minLearningRateRatio) || self.scheduler in "
        "['CosineWithMinLR', 'WarmupStableDecay']",
        holds=lambda t: (
            t.scheduler_options.min_learning_rate_ratio is None
            or t.scheduler in (Scheduler.COSINE_WITH_MIN_LR, Scheduler.WARMUP_STABLE_DECAY)
        ),
        message="training.schedulerOptions.minLearningRateRatio goes with scheduler CosineWithMinLR and "
        "WarmupStableDecay only; remove it",
        field="schedulerOptions.minLearningRateRatio",
    ),
    Rule(
        cel="!has(self.schedulerOptions.decayRatio) || self.scheduler == 'WarmupStableDecay'",
        holds=lambda t: t.scheduler_options.decay_ratio is None or t.scheduler is Scheduler.WARMUP_STABLE_DECAY,
        message="training.schedulerOptions.decayRatio goes with scheduler WarmupStableDecay only; remove it",
        field="schedulerOptions.decayRatio",
    ),
    Rule(
        cel="!has(self.schedulerOptions.power) || self.scheduler == 'Polynomial'",
        holds=lambda t: t.scheduler_options.power is None or t.scheduler is Scheduler.POLYNOMIAL,
        message="training.schedulerOptions.power goes with scheduler Polynomial only; remove it",
        field="schedulerOptions.power",
    ),
    Rule(
        cel="!has(self.neftuneNoiseAlpha) || double(self.neftuneNoiseAlpha) > 0.0",
        holds=lambda t: t.neftune_noise_alpha is None or float(t.neftune_noise_alpha) > 0,
        message='training.neftuneNoiseAlpha must be above 0, for instance "5"; leave it out for no noise',
        field="neftuneNoiseAlpha",
    ),
    Rule(
        cel="self.extraArguments.all(name, size(name) <= 64)",
        holds=lambda t: all(len(name) <= 64 for name in t.extra_arguments),
        message="training.extraArguments has a name of more than 64 characters: no field of TrainingArguments; "
        "remove it",
        field="extraArguments",
    ),
)
"""Rules of Training about what is defined here."""
