"""The files of one source, as one stream of records."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.data.containers import Record, read_records
from finetune_trainer.data.findings import BrokenFileError


@dataclass(frozen=True)
class DataFile:
    """One file of rows."""

    name: str
    """As people know it."""
    path: Path
    source: int = 0
    """Which of the source's URIs it is of."""


@dataclass(frozen=True)
class Source:
    """The training rows, or the held-out rows."""

    name: str
    """The file, or the URI of several."""
    files: tuple[DataFile, ...]
    """In the order in which they are read."""
    sha256: str
    left_alone: tuple[str, ...] = ()
    """Names of other files that are there, below a prefix."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A record, and the number of its file."""

    file: int
    record: Record


class BrokenSourceError(Exception):
    """A file cannot be read to its end. Its text is a whole sentence."""


def read_source(source: Source) -> Iterator[Origin]:
    """Read all records of all files.

    Raises:
        BrokenSourceError: A file cannot be read to its end.
    """
    for number, file in enumerate(source.files):
        try:
            for record in read_records(file.path):
                yield Origin(number, record)
        except BrokenFileError as error:
            raise BrokenSourceError(f"{file.name}:{error.line}: {error}") from error
