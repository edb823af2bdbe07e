"""What turns the rows of one source into token ids and what is learned of them: one encoder a task."""

from collections.abc import Sequence
from typing import Any, Protocol

from finetune_api.v1alpha1 import DataFormat, TaskType
from finetune_trainer.data.encode import Encoder
from finetune_trainer.data.encoders.questions import QuestionEncoder
from finetune_trainer.data.encoders.sequences import SequenceEncoder
from finetune_trainer.data.encoders.texts import TextEncoder
from finetune_trainer.data.encoders.words import WordEncoder
from finetune_trainer.data.findings import RowError
from finetune_trainer.data.labelnames import LabelNames
from finetune_trainer.data.options import Options
from finetune_trainer.data.targets import Row


class RowEncoder(Protocol):
    """Three steps, of which the middle one runs without Python's lock."""

    @property
    def labels(self) -> LabelNames | None:
        """The labels met so far; None for a task without."""

    def render(self, example: Any) -> Any:
        """Do what can be done for one row alone; raises RowError."""

    def tokenize(self, rows: Sequence[Any]) -> list[Any]:
        """Tokenise rendered rows together."""

    def label(self, rows: Sequence[Any], encodings: list[Any]) -> Sequence[Row | RowError]:
        """Say what is to be learned; a row that cannot be used gives its RowError in its place."""


def row_encoder(options: Options, format_: DataFormat, tokenizer: Any) -> RowEncoder:
    """The encoder of a task.

    Raises:
        RunError: InvalidConfiguration: the tokenizer lacks what the task or the format needs.
    """
    match options.task.type:
        case TaskType.SEQUENCE_CLASSIFICATION:
            return TextEncoder(tokenizer, LabelNames(options.labels))
        case TaskType.TOKEN_CLASSIFICATION:
            return WordEncoder(tokenizer, LabelNames(options.labels))
        case TaskType.SEQ2SEQ_LM:
            return SequenceEncoder(tokenizer)
        case TaskType.QUESTION_ANSWERING:
            return QuestionEncoder(tokenizer, evaluates=not options.trains, stride=options.task.stride)
        case _:
            return Encoder(format_, options.dataset.train_on, tokenizer, options.dataset.chat_template_kwargs)
