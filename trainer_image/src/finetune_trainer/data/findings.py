"""Collect what is wrong with rows, so that one run shows several mistakes and not just the first."""

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import IO

SHOWN = 5
"""Findings that are spelt out; the rest is counted."""


class Kind(StrEnum):
    """What can be wrong with a row, as it is counted."""

    UNREADABLE = "not readable"
    NOT_UTF8 = "not UTF-8"
    FORMAT = "not of the format"
    ROLE = "wrong role"
    CONTENT = "wrong or missing content"
    NO_ASSISTANT = "no assistant turn"
    TEMPLATE = "refused by the chat template"
    TRAINS_NOTHING = "trains nothing"
    LABEL = "unknown label"
    TOO_LONG = "too long"


class RowError(Exception):
    """What is wrong with one row, as the end of a sentence that starts with its file and line."""

    def __init__(self, message: str, kind: Kind = Kind.FORMAT) -> None:
        super().__init__(message)
        self.kind = kind


class BrokenFileError(Exception):
    """From some line on a file cannot be read at all, so nobody knows how many rows are lost."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class Findings:
    """Bad rows of one source, counted by kind; the first few with their place."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._kinds: Counter[Kind] = Counter()

    @property
    def count(self) -> int:
        """How many rows were bad."""
        return self._kinds.total()

    def add(self, file: str, line: int, error: RowError) -> None:
        """Remember one bad row."""
        self._kinds[error.kind] += 1
        if self.count <= SHOWN:
            self._shown.append(f"{file}:{line}: {error}")

    def __str__(self) -> str:
        """The first findings, and how many there are of each kind where that is not plain already."""
        more = f" (and {self.count - SHOWN} more)" if self.count > SHOWN else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self._kinds.most_common())
        return "; ".join(self._shown) + more + (f"; in all: {kinds}" if self.count > 1 else "")


class Quarantine:
    """A JSONL file of the rows that were skipped; it exists only when there is one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def add(self, file: str, line: int, error: RowError, raw: object) -> None:
        """Write one row; `raw` is what stood in the file, as bytes, or as the values of a table's row."""
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        text = raw.decode(errors="replace").rstrip("\r\n") if isinstance(raw, bytes) else json.dumps(raw, default=str)
        entry = {"file": file, "line": line, "kind": error.kind, "reason": str(error), "raw": text}
        self._file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()
