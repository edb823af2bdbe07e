"""Parquet and Arrow files; a row's line is its number."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

from finetune_trainer.data.containers.record import BUFFER, Record
from finetune_trainer.data.findings import Kind, RowError

ROWS = 500
"""Rows that become Python objects at once."""


def read_parquet(path: Path) -> Iterator[Record]:
    """Read a Parquet file, one piece of a row group at a time."""
    with parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
        yield from _records(file.iter_batches(batch_size=ROWS, use_threads=False))


def read_arrow(path: Path) -> Iterator[Record]:
    """Read an Arrow file in either of its two forms: with an index at the end (file) or without (stream)."""
    with pa.OSFile(str(path)) as source:
        try:
            file = ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            yield from _records(ipc.open_stream(source))
        else:
            yield from _records(file.get_batch(number) for number in range(file.num_record_batches))


def _records(batches: Iterable[Any]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            for row in _objects(batch.slice(start, ROWS)):
                number += 1
                if isinstance(row, RowError):
                    yield Record(number, b"", row)
                else:
                    yield Record(number, row, {name: _without_null(value) for name, value in row.items()})


def _objects(rows: Any) -> list[Any]:
    """The rows as objects; in the place of one that has a value Python cannot hold, what is wrong with it."""
    try:
        return list(rows.to_pylist())
    except (UnicodeDecodeError, OverflowError):
        return [found for number in range(rows.num_rows) for found in _object(rows.slice(number, 1))]


def _object(row: Any) -> list[Any]:
    try:
        return list(row.to_pylist())
    except UnicodeDecodeError as error:
        return [RowError(f"is not UTF-8: it has the byte 0x{error.object[error.start]:02x}", Kind.NOT_UTF8)]
    except OverflowError as error:  # a time beyond the year 9999
        return [RowError(f"has a value that cannot be read: {error}", Kind.UNREADABLE)]


def _without_null(value: Any) -> Any:
    """A column without the nulls that the common fields of all rows leave in its objects."""
    if isinstance(value, dict):
        return {name: _without_null(member) for name, member in value.items() if member is not None}
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return [_without_null(member) for member in value]
    return value
