"""What every task says of itself."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.collate import Batch
from finetune_trainer.training.scores import Scores

Sums = NDArray[np.float64]
"""Numbers that add up over batches and processes, the sum of the loss first; what the others are is the task's."""


class Task(Protocol):
    """One task. Models are transformers' own, wrapped by peft or by a parallel engine or not."""

    kind: TaskType
    peft_type: str
    """As in peft.TaskType."""
    auto_class: Any
    """transformers' class that loads a model for it."""

    @property
    def settings(self) -> dict[str, Any]:
        """What of a model's config is the task's: the names of the labels, for instance."""

    @property
    def collator(self) -> Callable[[Sequence[Any]], Batch]:
        """Makes a batch of rows. Its `labels` hold a number for each item that gives a loss, and IGNORED elsewhere."""

    def logits(self, model: Any, batch: Batch) -> torch.Tensor:
        """What tells two trained models apart: float32, the rows first."""

    def loss_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        """The sum of the loss over the items of a batch; a scalar with a gradient."""

    def sums(self, model: Any, batch: Batch, rows: Sequence[Any]) -> Sums:
        """What of a batch adds up to the scores; `rows` are those that the batch was made of."""

    def scores(self, sums: Sums, items: int) -> Scores:
        """The scores of all rows together, which have `items` items."""
