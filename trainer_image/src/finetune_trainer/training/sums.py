"""Walk over all rows with a model in eval mode, and add up what each batch gives."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.collate import Batch
from finetune_trainer.fast.sharding import is_whole_model, without_gradient
from finetune_trainer.training.processes import Processes


class CutShort(Exception):  # noqa: N818 - no error
    """Somebody wanted the evaluation to end before its end."""


def lengths_of(rows: Sequence[Any]) -> list[int]:
    """Tokens of each row, or pack; asked of the rows as a whole where they know, for else each is read."""
    known = getattr(rows, "lengths", None)
    return [len(row) for row in rows] if known is None else list(known)


def sum_over_rows(
    sums: Callable[[Batch, Sequence[Any]], NDArray[np.float64]],
    model: Any,
    rows: Sequence[Any],
    collator: Callable[[Any], Batch],
    batch_size: int,
    processes: Processes,
    on_rows: Callable[[int], None] = lambda _: None,
    cut: Callable[[], bool] = lambda: False,
) -> NDArray[np.float64]:
    """The sum of `sums` over all batches and processes.

    The rows, or packs of rows, are shared among the processes; all get the same result. The model is left in the mode
    it was in. `on_rows` hears after each batch how many rows (or packs) of this process are done.

    Raises:
        CutShort: In all processes, once `cut` was true in one of them.
    """
    together = not is_whole_model(model)
    # Rows of similar length together: less padding, the same sum.
    ordered = sorted(range(len(rows)), key=lengths_of(rows).__getitem__, reverse=True)
    mine = ordered[processes.rank :: processes.world]
    most = -(-len(rows) // processes.world) if together else len(mine)
    was_training = model.training
    model.eval()
    try:
        total = np.zeros(1)
        for start in range(0, most, batch_size):
            if processes.any(cut()) if together else cut():
                break
            members = mine[start : start + batch_size]
            # The shortest, for nothing but to take part in the others' forward.
            some = [rows[number] for number in members or ordered[-1:]]
            batch = {name: tensor.to(processes.device()) for name, tensor in collator(some).items()}
            with without_gradient(model):
                found = sums(batch, some)
            total = total + (found if members else 0.0)
            on_rows(min(start + batch_size, len(mine)))
    finally:
        model.train(was_training)
    if processes.any(cut()):
        raise CutShort
    return processes.sum_each(total)
