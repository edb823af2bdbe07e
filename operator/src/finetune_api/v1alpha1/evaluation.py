"""Evaluation on the held-out rows: when, what follows from it while training, and what must hold at the end."""

from typing import Annotated

from pydantic import Field

from finetune_api.base import Count, Decimal, Object, Rule

LOSS = "Loss"
"""The metric that every task has."""


class EarlyStopping(Object):
    """Ends training when evaluations stop getting better."""

    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations in a row that may bring no improvement; the last of them ends training."""
    min_delta: Decimal = "0"
    """An evaluation counts as an improvement when it is better by more than this than the last one that counted."""


class Gate(Object):
    """What must hold on the held-out rows of what is to be published; otherwise nothing is."""

    rules = (
        Rule(
            cel="self.mustImprove || has(self.maxLoss) || has(self.minAccuracy)",
            holds=lambda g: g.must_improve or g.max_loss is not None or g.min_accuracy is not None,
            message="evaluation.gate asks for nothing; set mustImprove, maxLoss or minAccuracy, or remove it",
            field="mustImprove",
        ),
        Rule(
            cel="!has(self.minAccuracy) || double(self.minAccuracy) <= 1.0",
            holds=lambda g: g.min_accuracy is None or float(g.min_accuracy) <= 1,
            message='evaluation.gate.minAccuracy is a share, at most 1, for instance "0.9"',
            field="minAccuracy",
        ),
    )
    must_improve: bool = False
    """It must be better, by evaluation.metric, than the model was before training."""
    max_loss: Decimal | None = None
    """Largest loss, in nats per trained token."""
    min_accuracy: Decimal | None = None
    """Smallest accuracy, for tasks that measure it."""


class Evaluation(Object):
    """Evaluation during training; before and after it always happens when there are held-out rows."""

    rules = (
        Rule(
            cel="!has(self.everyEpochs) || !has(self.everySteps)",
            holds=lambda e: e.every_epochs is None or e.every_steps is None,
            message="evaluation.everyEpochs does not go with evaluation.everySteps; remove one",
            field="everyEpochs",
        ),
        Rule(
            cel="!has(self.earlyStopping) || has(self.everySteps) || has(self.everyEpochs)",
            holds=lambda e: e.early_stopping is None or e.every_steps is not None or e.every_epochs is not None,
            message="evaluation.earlyStopping needs evaluations in training; set evaluation.everySteps or everyEpochs",
            field="earlyStopping",
        ),
        Rule(
            cel="!self.keepBest || has(self.everySteps) || has(self.everyEpochs)",
            holds=lambda e: not e.keep_best or e.every_steps is not None or e.every_epochs is not None,
            message="evaluation.keepBest needs evaluations in training; set evaluation.everySteps or everyEpochs",
            field="keepBest",
        ),
    )
    every_steps: Count | None = None
    """Optimizer steps between two evaluations; none in between when unset."""
    every_epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Epochs between two evaluations, in place of everySteps."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Sequences per forward pass."""
    metric: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", min_length=1, max_length=64)] = LOSS
    """What makes one evaluation better than another: Loss, or the name of a metric of the task or of an extension."""
    early_stopping: EarlyStopping | None = None
    """Ends training when evaluations stop getting better; unset: never."""
    keep_best: bool = False
    """Publish the weights of the best evaluation instead of the last ones."""
    gate: Gate | None = None
    """What must hold of what is to be published; unset: nothing."""


HELD_OUT_RULES = (
    Rule(
        cel="!has(self.evaluation.earlyStopping) || has(self.dataset.evaluation)",
        holds=lambda s: s.evaluation.early_stopping is None or s.dataset.evaluation is not None,
        message="evaluation.earlyStopping needs held-out rows; set dataset.evaluation",
        field="evaluation.earlyStopping",
    ),
    Rule(
        cel="!self.evaluation.keepBest || self.resources.nodes == 1",
        holds=lambda s: not s.evaluation.keep_best or s.resources.nodes == 1,
        message="evaluation.keepBest does not go with resources.nodes above 1 yet: the best weights lie on one node's "
        "disk; remove one",
        field="evaluation.keepBest",
    ),
    Rule(
        cel="!self.evaluation.keepBest || has(self.dataset.evaluation)",
        holds=lambda s: not s.evaluation.keep_best or s.dataset.evaluation is not None,
        message="evaluation.keepBest needs held-out rows; set dataset.evaluation",
        field="evaluation.keepBest",
    ),
    Rule(
        cel="!has(self.evaluation.gate) || has(self.dataset.evaluation)",
        holds=lambda s: s.evaluation.gate is None or s.dataset.evaluation is not None,
        message="evaluation.gate needs held-out rows; set dataset.evaluation",
        field="evaluation.gate",
    ),
)
"""Of the spec as a whole."""
