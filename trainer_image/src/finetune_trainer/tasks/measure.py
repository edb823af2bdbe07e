"""All rows -> loss and metrics, exactly: every item weighs the same, however rows are batched and shared."""

from collections.abc import Callable, Sequence
from typing import Any

from finetune_trainer.data.collate import Batch
from finetune_trainer.tasks.task import Sums, Task
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.scores import Scores
from finetune_trainer.training.sums import sum_over_rows


def measure(
    task: Task,
    model: Any,
    rows: Sequence[Any],
    collator: Callable[[Any], Batch],
    batch_size: int,
    processes: Processes,
    on_rows: Callable[[int], None] = lambda _: None,
    cut: Callable[[], bool] = lambda: False,
) -> Scores:
    """Measure `model` on all rows, or packs of rows; all processes get the same scores.

    Raises:
        CutShort: In all processes, once `cut` was true in one of them.
    """

    def sums(batch: Batch, members: Sequence[Any]) -> Sums:
        return task.sums(model, batch, members)

    total = sum_over_rows(sums, model, rows, collator, batch_size, processes, on_rows, cut)
    return task.scores(total, sum(row.trained for row in rows))
