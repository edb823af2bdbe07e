"""Ends a run whose numbers go wrong before anything good is lost: NaN and infinity at once, divergence when sure."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback

from finetune_api.outcome import Reason
from finetune_trainer.data.collate import Batch
from finetune_trainer.data.shards import Rows
from finetune_trainer.errors import RunError
from finetune_trainer.training.divergence import Divergence

_NAMED = 8
_HINT = "Lower training.learningRate or training.maxGradientNorm, or look for extreme rows in the dataset."


class DivergenceCallback(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Ends a run that diverges, and names the rows of the step whose loss was highest since it was at its best."""

    def __init__(self, divergence: Divergence, batches: Callable[[], Sequence[Batch]], rows: Rows) -> None:
        self._divergence, self._batches, self._rows = divergence, batches, rows
        self._best = math.inf
        self._highest: tuple[float, int, Sequence[Batch]] = (-math.inf, 0, ())

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Hear what earlier sessions logged."""
        for entry in state.log_history:
            if "loss" in entry:
                self._divergence.hear(entry["loss"])

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Judge each logged loss; all processes have the same."""
        if not logs or "loss" not in logs:
            return
        self._divergence.hear(logs["loss"])
        if self._divergence.best < self._best:
            self._best, self._highest = self._divergence.best, (-math.inf, 0, ())
        if logs["loss"] > self._highest[0]:
            self._highest = (logs["loss"], state.global_step, self._batches())
        if self._divergence.certain:
            loss, step, batches = self._highest
            raise RunError(
                Reason.DIVERGED,
                f"the training loss went up: at step {state.global_step} its mean is {self._divergence.mean:.4f}, "
                f"and it was {self._divergence.best:.4f} at its best; it was highest at step {step}, {loss:.4f}, in "
                f"{name_rows(batches, self._rows)}",
                f"{_HINT} training.divergence says what counts as going up.",
            )


def non_finite(what: str, value: float, batches: Sequence[Batch], rows: Rows, rate: float) -> RunError:
    """The error of a loss or a gradient that is no number; `rate` is the learning rate."""
    message = f"{what} is {value} (learning rate {rate:.3g}), in {name_rows(batches, rows)}"
    return RunError(Reason.NON_FINITE_LOSS, message, _HINT)


def check_evaluation(loss: float, whose: str) -> float:
    """Return a loss that is a number.

    Raises:
        RunError: NonFiniteLoss.
    """
    if not math.isfinite(loss):
        raise RunError(Reason.NON_FINITE_LOSS, f"the evaluation loss of {whose} is {loss}", _HINT)
    return loss


def name_rows(batches: Sequence[Batch], rows: Rows) -> str:
    """Name file and line of the rows that the batches are made of; they are found by their tokens."""
    wanted = {ids.tobytes() for batch in batches for ids in _sequences(batch)}
    found: dict[bytes, str] = {}
    for number, row in enumerate(rows):
        tokens = row.input_ids.astype(np.int64).tobytes()
        if tokens in wanted:
            found.setdefault(tokens, rows.place(number))
    listed = ", ".join(list(found.values())[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{listed}{more}" if found else f"one of {len(wanted)} rows"


def _sequences(batch: Batch) -> list[Any]:
    """The token ids of every row of a batch, without pads; a packed row is cut where its positions restart."""
    ids = batch["input_ids"].cpu().numpy()
    mask = batch["attention_mask"].cpu().numpy() != 0 if "attention_mask" in batch else np.ones(ids.shape, bool)
    if "position_ids" not in batch:
        return [line[kept] for line, kept in zip(ids, mask, strict=True)]
    starts = [np.flatnonzero(line == 0)[1:] for line in batch["position_ids"].cpu().numpy()]
    return [piece for line, cuts in zip(ids, starts, strict=True) for piece in np.split(line, cuts)]
