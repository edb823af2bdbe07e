"""What a format is: the columns that a row needs, and how they are read."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1 import Columns, DataFormat
from finetune_trainer.data.containers.record import kind_of
from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.rows import Example

LONGEST_LABEL = 128
"""Characters, as in task.labels."""
Fields = Mapping[str, Any]
"""The columns of a row under our names."""
Roles = Mapping[str, str]
"""What the user calls a role -> system, user, assistant or tool; only what the job file says."""


@dataclass(frozen=True)
class Format:
    """One way to write a row."""

    name: DataFormat
    needs: tuple[str, ...]
    """Columns without which a row is not of this format; others are read where they are there."""
    read: Callable[[Fields, Roles], Example]
    """Raises RowError."""

    def fits(self, row: Fields) -> bool:
        """Whether a row has the columns of this format."""
        return all(column in row for column in self.needs)


class Renamed:
    """Gives columns our names."""

    def __init__(self, columns: Columns) -> None:
        self.names: dict[str, str] = columns.model_dump(exclude_none=True)
        """Our name -> the file's."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with our names; a column that was renamed away is not there under its old name."""
        if not self.names:
            return row
        kept = {name: value for name, value in row.items() if name not in self.names}
        return kept | {ours: row[theirs] for ours, theirs in self.names.items() if theirs in row}


def text_of(value: object, name: str) -> str:
    """A column that must be a string."""
    if not isinstance(value, str):
        raise RowError(f"{name} is {kind_of(value)}, not a string", Kind.CONTENT)
    return value


def filled_text(value: object, name: str) -> str:
    """A column that must be a string with more than blanks in it."""
    text = text_of(value, name)
    if not text.strip():
        raise RowError(f"{name} is empty", Kind.CONTENT)
    return text


def label_of(value: object, name: str) -> str:
    """A column that must be a label: a string, or a whole number, which is taken as its digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RowError(f"{name} is {kind_of(value)}, neither a string nor a whole number", Kind.CONTENT)
    if not value or len(value) > LONGEST_LABEL:
        raise RowError(f"{name} has {len(value)} characters; a label has 1 to {LONGEST_LABEL}", Kind.CONTENT)
    return value


def optional_text(row: Fields, name: str) -> str:
    """A column that may be missing, null or empty."""
    value = row.get(name)
    return "" if value is None else text_of(value, name)


def list_of(value: object, name: str) -> list[Any]:
    """A column that must be a list, or the JSON text of one: tables have no lists."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(value, list):
        raise RowError(f"{name} is {kind_of(value)}, not a list")
    if not value:
        raise RowError(f"{name} is empty")
    return value
