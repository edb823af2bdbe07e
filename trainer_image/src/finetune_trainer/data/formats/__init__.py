"""The formats of rows, one file each, and how one is chosen.

messages            role and content, with tools
prompt_completion   a prompt and its completion, as texts or messages
instruction         Alpaca: instruction, input, output
sharegpt            conversations with from and value
text                plain text, all of it trained
tokenized           token ids
"""

from collections.abc import Sequence
from typing import Any

from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.findings import RowError
from finetune_trainer.data.formats.format import Fields, Format, Renamed, Roles
from finetune_trainer.data.formats.instruction import INSTRUCTION
from finetune_trainer.data.formats.messages import MESSAGES
from finetune_trainer.data.formats.prompt_completion import PROMPT_COMPLETION
from finetune_trainer.data.formats.sharegpt import SHARE_GPT
from finetune_trainer.data.formats.text import TEXT
from finetune_trainer.data.formats.tokenized import TOKENIZED
from finetune_trainer.data.rows import Example

FORMATS = {format_.name: format_ for format_ in (MESSAGES, PROMPT_COMPLETION, INSTRUCTION, SHARE_GPT, TEXT, TOKENIZED)}
CHATS = (DataFormat.MESSAGES, DataFormat.PROMPT_COMPLETION, DataFormat.INSTRUCTION, DataFormat.SHARE_GPT)
"""Formats that go through the model's chat template."""


class RowReader:
    """Reads the rows of one source, all in one format."""

    def __init__(self, format_: Format, renamed: Renamed, roles: Roles, *, chosen: bool) -> None:
        self.format = format_
        self._renamed = renamed
        self._roles = roles
        self._others = [other for other in FORMATS.values() if other is not format_] if chosen else []
        """Where we have chosen the format, a row that could be two things is a finding."""

    def __call__(self, row: dict[str, Any]) -> Example:
        """Read one row.

        Raises:
            RowError: It is not of the format.
        """
        fields = self._renamed(row)
        if not self.format.fits(fields):
            raise RowError(f"needs {_columns(self.format, self._renamed)}, but has {_keys(row)}")
        twin = next((other for other in self._others if other.fits(fields)), None)
        if twin is not None:
            raise RowError(f"could be {self.format.name} or {twin.name}; say which with dataset.format")
        return self.format.read(fields, self._roles)


def choose(first: Sequence[dict[str, Any]], renamed: Renamed) -> tuple[Format | None, str]:
    """Tell the format of a source by the columns of its first rows, and say why.

    The format that most of the rows fit wins; two that fit equally many are not told apart, and None is returned.
    """
    fields = [renamed(row) for row in first]
    counts = {name: sum(format_.fits(row) for row in fields) for name, format_ in FORMATS.items()}
    most = max(counts.values())
    best = [FORMATS[name] for name, count in counts.items() if count == most]
    if most == 0:
        wanted = "; ".join(f"{name}: {_columns(format_, renamed)}" for name, format_ in FORMATS.items())
        return None, f"its first row has {_keys(first[0])}, which is none of these: {wanted}"
    if len(best) > 1:
        return None, f"its first rows could be {' or '.join(format_.name for format_ in best)}"
    return best[0], f"{most} of its first {len(first)} rows have {_columns(best[0], renamed)}"


def _columns(format_: Format, renamed: Renamed) -> str:
    """The columns that a format needs, under the file's own names."""
    return " and ".join(f"`{renamed.names.get(column, column)}`" for column in format_.needs)


def _keys(row: Fields) -> str:
    return ", ".join(f"`{key}`" for key in list(row)[:6]) or "nothing"


__all__ = ["CHATS", "FORMATS", "Renamed", "RowReader", "choose"]
