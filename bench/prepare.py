"""What all contenders share, made once: the model, tokenised rows, and the packs that TRL makes of them.

    python -m bench.prepare FOLDER ROWS LENGTH...

Everybody trains TRL's packs in TRL's order, so that nothing but the training differs.
"""

import json
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.data_utils import pack_dataset

from bench.rows import tokenise, write
from examples.demo.model import ensure
from finetune_trainer.data.tokens import IGNORED
from finetune_trainer.tokenizer import load_tokenizer


def prepare(folder: Path, count: int, lengths: list[int]) -> None:
    """Write model/, rows.jsonl, rows.json and packs-LENGTH.json below `folder`."""
    tokenizer = load_tokenizer(ensure(folder / "model"))
    data = tokenise(write(folder / "rows.jsonl", count), tokenizer, min(lengths), folder / "rows")
    rows = [{"input_ids": row.input_ids.tolist(), "labels": row.labels.tolist()} for row in data.rows]
    masked = [
        {"input_ids": row["input_ids"], "completion_mask": [int(label != IGNORED) for label in row["labels"]]}
        for row in rows
    ]
    (folder / "rows.json").write_text(json.dumps(masked))
    for length in lengths:
        packed = pack_dataset(Dataset.from_list(rows), length, "bfd")
        (folder / f"packs-{length}.json").write_text(json.dumps([_split(pack) for pack in packed]))


def _split(pack: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """The rows of a pack: tokens and labels of each."""
    rows, start = [], 0
    for length in pack["seq_lengths"]:
        rows.append((pack["input_ids"][start : start + length], pack["labels"][start : start + length]))
        start += length
    return rows


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), int(sys.argv[2]), [int(length) for length in sys.argv[3:]])
