"""The formats of rows, one file each, and how one is chosen.

messages            role and content, with tools
prompt_completion   a prompt and its completion, as texts or messages
instruction         Alpaca: instruction, input, output
sharegpt            conversations with from and value
text                plain text, all of it trained
tokenized           token ids
text_label          a text, or two, and a label
tokens_tags         words, each with a label
source_target       a text, and what is to be made of it
question_answers    a question, a context, and the answers in it, as SQuAD has them
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.v1alpha1 import DataFormat, TaskType
from finetune_trainer.data.findings import RowError
from finetune_trainer.data.formats.format import Fields, Format, Renamed, Roles
from finetune_trainer.data.formats.instruction import INSTRUCTION
from finetune_trainer.data.formats.messages import MESSAGES
from finetune_trainer.data.formats.prompt_completion import PROMPT_COMPLETION
from finetune_trainer.data.formats.question_answers import QUESTION_ANSWERS
from finetune_trainer.data.formats.sharegpt import SHARE_GPT
from finetune_trainer.data.formats.source_target import PROMPT_TARGET, SOURCE_TARGET
from finetune_trainer.data.formats.text import TEXT
from finetune_trainer.data.formats.text_label import TEXT_LABEL
from finetune_trainer.data.formats.tokenized import TOKENIZED
from finetune_trainer.data.formats.tokens_tags import TOKENS_TAGS
from finetune_trainer.data.rows import Example

Formats = Mapping[DataFormat, Format]


def _named(*formats: Format) -> Formats:
    return {format_.name: format_ for format_ in formats}


FORMATS = _named(MESSAGES, PROMPT_COMPLETION, INSTRUCTION, SHARE_GPT, TEXT, TOKENIZED)
"""Of CausalLM."""
_OF_TASKS: Mapping[TaskType, Formats] = {
    TaskType.CAUSAL_LM: FORMATS,
    TaskType.SEQUENCE_CLASSIFICATION: _named(TEXT_LABEL),
    TaskType.TOKEN_CLASSIFICATION: _named(TOKENS_TAGS),
    TaskType.SEQ2SEQ_LM: _named(SOURCE_TARGET, PROMPT_TARGET),
    TaskType.QUESTION_ANSWERING: _named(QUESTION_ANSWERS),
}
CHATS = (DataFormat.MESSAGES, DataFormat.PROMPT_COMPLETION, DataFormat.INSTRUCTION, DataFormat.SHARE_GPT)
"""Formats that go through the model's chat template."""


def formats_of(task: TaskType) -> Formats:
    """What a task learns from. One name may be read in two ways: a completion is a turn of a chat, or a target."""
    return _OF_TASKS[task]


class RowReader:
    """Reads the rows of one source, all in one format."""

    def __init__(self, format_: Format, renamed: Renamed, roles: Roles, others: Formats | None = None) -> None:
        self.format = format_
        self._renamed = renamed
        self._roles = roles
        self._others = [other for other in (others or {}).values() if other is not format_]
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


def choose(first: Sequence[dict[str, Any]], renamed: Renamed, formats: Formats = FORMATS) -> tuple[Format | None, str]:
    """Tell the format of a source by the columns of its first rows, and say why.

    The format that most of the rows fit wins; two that fit equally many are not told apart, and None is returned.
    """
    fields = [renamed(row) for row in first]
    counts = {name: sum(format_.fits(row) for row in fields) for name, format_ in formats.items()}
    most = max(counts.values())
    best = [formats[name] for name, count in counts.items() if count == most]
    if most == 0:
        wanted = "; ".join(f"{name}: {_columns(format_, renamed)}" for name, format_ in formats.items())
        return None, f"its first row has {_keys(first[0])}, which is none of these: {wanted}"
    if len(best) > 1:
        return None, f"its first rows could be {' or '.join(format_.name for format_ in best)}"
    return best[0], f"{most} of its first {len(first)} rows have {_columns(best[0], renamed)}"


def _columns(format_: Format, renamed: Renamed) -> str:
    """The columns that a format needs, under the file's own names."""
    return " and ".join(f"`{renamed.names.get(column, column)}`" for column in format_.needs)


def _keys(row: Fields) -> str:
    return ", ".join(f"`{key}`" for key in list(row)[:6]) or "nothing"


__all__ = ["CHATS", "FORMATS", "Renamed", "RowReader", "choose", "formats_of"]
