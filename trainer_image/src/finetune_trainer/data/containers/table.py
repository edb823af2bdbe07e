"""CSV with a header line; cells are strings."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.data.containers.record import Record, checked, open_binary
from finetune_trainer.data.findings import BrokenFileError, Kind, RowError

LONGEST_CELL = 1 << 30
csv.field_size_limit(LONGEST_CELL)


def read(path: Path) -> Iterator[Record]:
    """Read the rows below the header; a row's line is the one that it starts in."""
    with io.TextIOWrapper(open_binary(path), "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise BrokenFileError(1, f"the header is not valid CSV: {error}") from None
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise BrokenFileError(1, f"the header names the column '{twice[0]}' twice")
        line = reader.line_num
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "unexpected end of data" in str(error) or reader.line_num > line + 1:
                    message = f"a cell in quotes does not end in this row, so no row below it can be told ({error})"
                    raise BrokenFileError(line + 1, message) from None
                yield Record(line + 1, b"", RowError(f"is not valid CSV: {error}", Kind.UNREADABLE))
            else:
                if cells is None:
                    return
                if cells:
                    yield Record(line + 1, cells, _row(header, cells))
            line = reader.line_num


def _row(header: list[str], cells: list[str]) -> dict[str, Any] | RowError:
    if len(cells) != len(header):
        return RowError(f"has {len(cells)} cells, but the header has {len(header)}", Kind.UNREADABLE)
    return checked(dict(zip(header, cells, strict=True)))
