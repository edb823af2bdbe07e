"""Token rows as training sees them: on disk."""

from pathlib import Path

from finetune_trainer.data.shards import Facts, Rows, ShardWriter, open_shards
from finetune_trainer.data.tokens import IGNORED, Labelled, TokenRow

_FACTS = Facts(
    sha256="", format="Tokenized", tokens=0, trained_tokens=0, largest_token=0, dropped=0, truncated=0, unfinished=0,
    invalid=0, duplicates=0, longest=0, p50=0, p95=0, p99=0,
)  # fmt: skip


def write_rows(folder: Path, rows: list[TokenRow]) -> Rows:
    """Rows that come from lines 1, 2, ... of a file `rows.jsonl`."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder) as writer:
        for line, row in enumerate(rows, start=1):
            writer.add(Labelled(row.input_ids, row.labels != IGNORED, np.zeros(0, np.intp)), 0, line)
    writer.finish("", ["rows.jsonl"], _FACTS)
    opened = open_shards(folder)
    assert opened is not None
    return opened[0]
