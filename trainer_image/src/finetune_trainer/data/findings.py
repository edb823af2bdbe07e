"""Collect what is wrong with rows, so that one run shows several mistakes and not just the first."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO

SHOWN = 5
"""Findings that a sentence spells out; the rest is counted."""
LISTED = 20
"""Findings of each kind that are kept with their place, for the report; memory does not grow with the others."""


class Kind(StrEnum):
    """What can be found of a row, or of a file, as it is counted."""

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
    CUT = "cut"
    UNFINISHED = "cut before its end"
    ENDLESS = "trains no end of a turn"
    DUPLICATE = "repeats an earlier row"
    LEFT_ALONE = "file left alone"
    EMPTY = "file without rows"


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


@dataclass(frozen=True)
class Finding:
    """What is to be said of one row."""

    file: str
    line: int | None
    """None where it is said of the whole file."""
    reason: str

    @property
    def place(self) -> str:
        """As messages name it."""
        return f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass
class Findings:
    """How many there are of one kind, and the first of them."""

    kind: Kind
    count: int = 0
    first: list[Finding] = field(default_factory=list)

    def add(self, file: str, line: int | None, reason: str) -> None:
        """Remember one."""
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(Finding(file, line, reason))

    @property
    def places(self) -> str:
        """The first few places."""
        return ", ".join(finding.place for finding in self.first[:SHOWN]) + " ..." * (self.count > SHOWN)

    @property
    def entry(self) -> dict[str, object]:
        """As the report has it."""
        return {"kind": self.kind, "count": self.count, "first": [asdict(finding) for finding in self.first]}

    def __str__(self) -> str:
        """The first findings."""
        return _spelt(self.first[:SHOWN], self.count)


class InvalidRows:
    """Rows of one source that cannot be used, counted by kind."""

    def __init__(self) -> None:
        self._first: list[Finding] = []
        self._kinds: dict[Kind, Findings] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(findings.count for findings in self._kinds.values())

    @property
    def kinds(self) -> list[Findings]:
        """Of each kind, the most frequent first."""
        return sorted(self._kinds.values(), key=lambda findings: -findings.count)

    def add(self, file: str, line: int, error: RowError) -> None:
        """Remember one bad row."""
        self._kinds.setdefault(error.kind, Findings(error.kind)).add(file, line, str(error))
        if len(self._first) < SHOWN:
            self._first.append(Finding(file, line, str(error)))

    def __str__(self) -> str:
        """The first ones, and how many there are of each kind where that is not plain already."""
        kinds = ", ".join(f"{findings.count} {findings.kind}" for findings in self.kinds)
        return _spelt(self._first, self.count) + (f"; in all: {kinds}" if self.count > 1 else "")


def _spelt(first: list[Finding], count: int) -> str:
    return "; ".join(map(str, first)) + (f" (and {count - SHOWN} more)" if count > SHOWN else "")


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
