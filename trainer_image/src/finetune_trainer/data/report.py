"""What was found in a dataset, as a file for people: `dataset-report.json`.

    {"version": 1, "train": {
      "source": "train.jsonl",
      "rowsRead": 20,                     # of which `rows` were kept, `invalidRows` skipped and `droppedRows` left out
      "rows": 17, "tokens": 612, ...      # the names of status.dataset, of this source alone
      "findings": [{"kind": "not UTF-8", "count": 3, "first": [{"file", "line", "reason"}, ...]}, ...],
      "shown": [{"file", "line", "text"}, ...],      # of the training rows: the first ones, as the log shows them
      "refused": "..."                    # only where the rows may not be trained: why
    }, "evaluation": {...}}

Each source's part lies beside its shards under the same name, so that it is there wherever they are found again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_trainer.data.dataset import Dataset, report, shown
from finetune_trainer.data.doctor import Doctor
from finetune_trainer.data.findings import Findings, Kind
from finetune_trainer.data.options import Options
from finetune_trainer.data.shards import REPORT
from finetune_trainer.data.source import Source

VERSION = 1
_OF_BOTH = {"evaluation_rows", "model_revision"}
"""What status.dataset says of more than one source."""


def describe(source: Source, doctor: Doctor, dataset: Dataset) -> dict[str, Any]:
    """One source's part, without its rows."""
    findings = [*doctor.invalid.kinds, *doctor.tally.findings, doctor.empty, _left_alone(source)]
    return {
        "source": source.name,
        "rowsRead": doctor.seen,
        **report(dataset, None).model_dump(mode="json", by_alias=True, exclude=_OF_BOTH),
        "findings": [found.entry for found in findings if found.count],
    }


def show(dataset: Dataset, tokenizer: Any, options: Options) -> list[dict[str, object]]:
    """The rows that the log shows, with their places."""
    places = map(dataset.rows.origin, range(len(dataset.rows)))
    texts = shown(dataset, tokenizer, options.task.type)
    return [{"file": file, "line": line, "text": text} for text, (file, line) in zip(texts, places, strict=False)]


def write_part(folder: Path, part: Mapping[str, Any]) -> None:
    """Put one source's part beside its shards."""
    (folder / REPORT).write_bytes(_encoded(part))


def joined(folders: Mapping[str, Path]) -> bytes | None:
    """The whole file, of the parts in folders of shards; None where there is none: an older trainer wrote them."""
    files = {name: folder / REPORT for name, folder in folders.items()}
    parts = {name: json.loads(file.read_bytes()) for name, file in files.items() if file.exists()}
    return _encoded({"version": VERSION, **parts}) if parts else None


def _left_alone(source: Source) -> Findings:
    found = Findings(Kind.LEFT_ALONE)
    for name in source.left_alone:
        found.add(name, None, "its name is not one of a file with rows")
    return found


def _encoded(document: Mapping[str, Any]) -> bytes:
    """As people read it; half a surrogate pair, which UTF-8 has not, becomes JSON's escape of it."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return f"{text}\n".encode(errors="backslashreplace")
