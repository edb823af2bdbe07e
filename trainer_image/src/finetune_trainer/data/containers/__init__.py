"""From files to records, one at a time: JSON lines, a JSON array, CSV, Parquet, Arrow; compressed with gzip or zstd.

lines       one JSON object a line
array       one JSON array of objects
table       CSV with a header
columnar    Parquet and Arrow

No file is ever in memory as a whole.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from finetune_trainer.data.containers import array, columnar, lines, table
from finetune_trainer.data.containers.record import Record, open_binary
from finetune_trainer.data.findings import BrokenFileError

__all__ = ["Record", "read_records", "reads"]

_COMPRESSED = (".gz", ".zst")
_ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".arrow")


def reads(name: str) -> bool:
    """Whether a file of this name holds rows, as far as its name tells."""
    return _container(Path(name)) in _ROWS


def read_records(path: Path) -> Iterator[Record]:
    """Read a file's records. What the name does not tell is read as JSON lines.

    Raises:
        BrokenFileError: The rest of the file cannot be read.
    """
    line = 0
    try:
        for record in _reader(path)(path):
            line = record.line
            yield record
    except (OSError, EOFError, pa.ArrowException) as error:
        text = " ".join(str(error).split())
        raise BrokenFileError(line, f"the file cannot be read on from here: {text[:300]}") from error


def _reader(path: Path) -> Callable[[Path], Iterator[Record]]:
    container = _container(path)
    if container in (".parquet", ".arrow"):
        if path.suffix in _COMPRESSED:
            raise BrokenFileError(0, f"{container} files are compressed inside; remove the {path.suffix} around it")
        return columnar.read_parquet if container == ".parquet" else columnar.read_arrow
    if container == ".csv":
        return table.read
    return array.read if container == ".json" and _starts_with_bracket(path) else lines.read


def _container(path: Path) -> str:
    """The suffix that tells the form, without that of a compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in _COMPRESSED else path.suffix.lower()


def _starts_with_bracket(path: Path) -> bool:
    with open_binary(path) as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
