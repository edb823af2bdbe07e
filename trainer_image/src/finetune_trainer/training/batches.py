"""How rows become batches: padded one by one, or packed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.collate import Batch, PackCollator
from finetune_trainer.data.packing import Packs
from finetune_trainer.data.shards import Rows
from finetune_trainer.tasks.questions import Questions
from finetune_trainer.training.inputs import Inputs
from finetune_trainer.training.session import Session


@dataclass(frozen=True)
class Batches:
    """What the training loop and the evaluation iterate over."""

    train: Sequence[Any]
    """Rows or packs."""
    evaluation: Sequence[Any] | None
    collator: Callable[[Sequence[Any]], Batch]


def batches(session: Session, inputs: Inputs) -> Batches:
    """Pack the rows where the run asks for it; all processes get the same packs."""
    training = session.run.training
    held_out = inputs.evaluation.rows if inputs.evaluation else None
    if not training.packing:
        if held_out is not None and inputs.task.kind is TaskType.QUESTION_ANSWERING:
            return Batches(inputs.train.rows, Questions(held_out), inputs.task.collator)
        return Batches(inputs.train.rows, held_out, inputs.task.collator)

    def pack(rows: Rows) -> Packs:
        return Packs(rows, rows.lengths.tolist(), training.max_length, training.seed)

    train = pack(inputs.train.rows)
    session.reporter.say(
        f"packed {len(inputs.train.rows)} rows into {len(train)} sequences of up to {training.max_length} tokens, "
        f"{100 * train.filled:.1f} % full"
    )
    return Batches(train, pack(held_out) if held_out is not None else None, PackCollator())
