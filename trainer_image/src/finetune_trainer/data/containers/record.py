"""One row as it stands in a file, and the bytes of a file, decompressed."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from finetune_trainer.data.findings import Kind, RowError

BUFFER = 1 << 20
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_ESCAPED_BYTES = range(0xDC80, 0xDD00)
"""What Python's `surrogateescape` makes of bytes that are not UTF-8."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row, or why it is none."""

    line: int
    """From 1. Of Parquet and Arrow, which have no lines, the number of the row."""
    raw: object
    """What stood in the file: bytes, or the values of a table's row."""
    row: dict[str, Any] | RowError


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading; `.gz` and `.zst` are decompressed on the way."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return path.open("rb", buffering=BUFFER)
    return cast("BinaryIO", io.BufferedReader(pa.input_stream(str(path), compression=compression), BUFFER))


def checked(value: object) -> dict[str, Any] | RowError:
    """A JSON value as a row: an object whose strings are all text."""
    if not isinstance(value, dict):
        return RowError(f"is {kind_of(value)}, not an object")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        bad = ord(error.object[error.start])
        if bad in _ESCAPED_BYTES:
            return RowError(f"is not UTF-8: it has the byte 0x{bad - 0xDC00:02x}", Kind.NOT_UTF8)
        return RowError(f"has half of a surrogate pair, \\u{bad:04x}, which is no character", Kind.NOT_UTF8)
    return value


def kind_of(value: object) -> str:
    """What a JSON value is, as people say it, with the value where it is short."""
    if value is None:
        return "null"
    for kind, name in ((str, "a string"), (bool, "a boolean"), (list, "a list"), (dict, "an object")):
        if isinstance(value, kind):
            return name
    return f"the number {str(value)[:20]}"
