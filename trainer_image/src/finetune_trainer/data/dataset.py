"""The rows of one source as training sees them: on disk, with the facts about them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from finetune_api.outcome import DatasetReport
from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.shards import Facts, Rows, open_shards
from finetune_trainer.data.show import show_targets
from finetune_trainer.data.tokens import IGNORED

SHOWN = 3
"""Rows whose trained spans are written to the log."""


@dataclass(frozen=True)
class Dataset:
    """The rows of one source that are trained or evaluated, in the files' order."""

    rows: Rows
    facts: Facts

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Map what `prepare` has written."""
        found = open_shards(folder)
        if found is None:
            raise FileNotFoundError(f"{folder} holds no complete shards")
        return cls(*found)


def report(train: Dataset, evaluation: Dataset | None, revision: str = "") -> DatasetReport:
    """What people are told of both sources; `revision` is the commit of the hf:// model whose tokenizer they have."""
    facts = train.facts
    both = [facts, evaluation.facts] if evaluation else [facts]
    return DatasetReport(
        sha256=facts.sha256,
        rows=train.rows.stored,
        evaluation_rows=len(evaluation.rows) if evaluation else 0,
        tokens=facts.tokens,
        trained_tokens=facts.trained_tokens,
        dropped_rows=sum(each.dropped for each in both),
        format=facts.format,
        truncated_rows=sum(each.truncated for each in both),
        unfinished_rows=sum(each.unfinished for each in both),
        invalid_rows=sum(each.invalid for each in both),
        duplicate_rows=facts.duplicates,
        longest_row=facts.longest,
        p50_length=facts.p50,
        p95_length=facts.p95,
        p99_length=facts.p99,
        model_revision=revision or None,
    )


def shown(dataset: Dataset, tokenizer: Any, task: TaskType) -> Iterator[str]:
    """The first rows as sentences, with what is learned of them, for a person to check."""
    if task is TaskType.CAUSAL_LM:
        for text in show_trained(dataset.rows, tokenizer):
            yield f"trained is what stands between >>> and <<<: {text}"
        return
    for row in dataset.rows[:SHOWN]:
        yield f"a row, and what is to be learned of it: {show_targets(row, dataset.facts.labels, tokenizer, task)}"


def show_trained(rows: Rows, tokenizer: Any) -> Iterator[str]:
    """Render the first rows as text with the trained parts between >>> and <<<, for a person to check."""
    for row in rows[:SHOWN]:
        parts = []
        for trained, group in groupby(zip(row.input_ids, row.labels, strict=True), key=lambda pair: pair[1] != IGNORED):
            text = tokenizer.decode([int(token) for token, _ in group], clean_up_tokenization_spaces=False)
            parts.append(f">>>{text}<<<" if trained else text)
        yield repr("".join(parts))
