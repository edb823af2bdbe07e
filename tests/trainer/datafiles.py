"""Prepare files with the tiny tokenizer: what training would see of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1 import Dataset as Spec
from finetune_api.v1alpha1 import Task
from finetune_trainer.data.dataset import Dataset
from finetune_trainer.data.options import Options
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.source import DataFile, Source
from finetune_trainer.errors import RunError
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
USER = {"role": "user", "content": "a"}
ASSISTANT = {"role": "assistant", "content": "b"}
END = "<|im_end|>"


@dataclass(frozen=True)
class Prepared:
    """What became of some files."""

    dataset: Dataset
    said: list[str]
    folder: Path

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Each row decoded: the whole of it, and its trained tokens."""
        return [
            (decode(row.input_ids.tolist()), decode([label for label in row.labels.tolist() if label >= 0]))
            for row in self.dataset.rows
        ]

    @property
    def places(self) -> list[str]:
        """File and line of each row."""
        return [self.dataset.rows.place(index) for index in range(len(self.dataset.rows))]

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        """The skipped rows."""
        file = self.folder / "rows/quarantine.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def decode(ids: list[int]) -> str:
    """Tokens as text."""
    return str(TOKENIZER.decode(ids, clean_up_tokenization_spaces=False))


def prepared(
    folder: Path,
    files: Mapping[str, bytes],
    max_length: int = 1000,
    *,
    trains: bool = True,
    tokenizer: Any = TOKENIZER,
    task: Task | None = None,
    labels: list[str] | None = None,
    **options: Any,
) -> Prepared:
    """Write files into `folder`, in their order, and prepare them; keywords are of spec.dataset."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    source = Source(
        next(iter(files)) if len(files) == 1 else "s3://data/",
        tuple(DataFile(name, folder / name) for name in files),
        "0" * 64,
    )
    spec = Spec.model_validate_json(json.dumps({"train": {"uri": "s3://data/rows.jsonl"}, **options}))
    said: list[str] = []
    reading = Options(spec, max_length, trains, task or Task(), labels)
    prepare(source, reading, tokenizer, folder / "rows", "key", said.append)
    return Prepared(Dataset.open(folder / "rows"), said, folder)


def refused(folder: Path, files: Mapping[str, bytes], max_length: int = 1000, **options: Any) -> RunError:
    """Prepare files that are not good enough."""
    with pytest.raises(RunError) as caught:
        prepared(folder, files, max_length, **options)
    assert not (folder / "rows/index.json").exists()
    return caught.value


def line(row: object) -> bytes:
    """One line of JSON."""
    return json.dumps(row).encode() + b"\n"


def pair(question: str = "a", answer: str = "b") -> bytes:
    """One line with a chat of two messages."""
    return line({"messages": [{**USER, "content": question}, {**ASSISTANT, "content": answer}]})
