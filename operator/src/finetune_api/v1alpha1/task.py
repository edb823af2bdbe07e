"""What the model learns to do: the task, and the names of what it tells apart."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import DISTINCT, LIST_SET, Object, Rule
from finetune_api.v1alpha1.data import DataFormat


class TaskType(StrEnum):
    """What the model learns to do, as peft.TaskType means it."""

    CAUSAL_LM = "CausalLM"
    SEQUENCE_CLASSIFICATION = "SequenceClassification"
    TOKEN_CLASSIFICATION = "TokenClassification"  # noqa: S105 - a task, no secret
    SEQ2SEQ_LM = "Seq2SeqLM"
    QUESTION_ANSWERING = "QuestionAnswering"

    @property
    def formats(self) -> tuple[DataFormat, ...]:
        """The formats of rows that this task learns from."""
        return _FORMATS[self]

    @property
    def has_labels(self) -> bool:
        """Whether the model chooses among labels that have names."""
        return self in LABELLED

    @property
    def has_head(self) -> bool:
        """Whether the model gets a head of its own for this task, trained whole."""
        return self in (*LABELLED, TaskType.QUESTION_ANSWERING)


LABELLED = (TaskType.SEQUENCE_CLASSIFICATION, TaskType.TOKEN_CLASSIFICATION)
_FORMATS = {
    TaskType.CAUSAL_LM: (
        DataFormat.MESSAGES,
        DataFormat.PROMPT_COMPLETION,
        DataFormat.INSTRUCTION,
        DataFormat.SHARE_GPT,
        DataFormat.TEXT,
        DataFormat.TOKENIZED,
    ),
    TaskType.SEQUENCE_CLASSIFICATION: (DataFormat.TEXT_LABEL,),
    TaskType.TOKEN_CLASSIFICATION: (DataFormat.TOKENS_TAGS,),
    TaskType.SEQ2SEQ_LM: (DataFormat.SOURCE_TARGET, DataFormat.PROMPT_COMPLETION),
    TaskType.QUESTION_ANSWERING: (DataFormat.QUESTION_ANSWERS,),
}

DOC_STRIDE = 128
"""As in transformers' recipe for SQuAD."""
MAX_LABELS = 512
"""Labels of one task; more are rather texts."""
Label = Annotated[str, Field(min_length=1, max_length=128)]


Labels = Annotated[
    list[Label],
    DISTINCT,
    Field(min_length=2, max_length=MAX_LABELS, json_schema_extra=LIST_SET),
]


class Task(Object):
    """What the model learns to do."""

    rules = (
        Rule(
            cel="!has(self.labels) || self.type in ['SequenceClassification', 'TokenClassification']",
            holds=lambda t: t.labels is None or t.type.has_labels,
            message="task.labels goes with type SequenceClassification and TokenClassification only; remove it",
            field="labels",
        ),
    )
    type: Annotated[TaskType, Field(strict=False)] = TaskType.CAUSAL_LM
    """CausalLM: go on with a text or chat. SequenceClassification: one label a text. TokenClassification: one label a
    word. Seq2SeqLM: a target from a source, by an encoder and a decoder. QuestionAnswering: the span of a context."""
    labels: Labels | None = None
    """The labels in the order of their numbers; unset: those of the training rows, sorted. A row with another one
    cannot be used."""
    doc_stride: Annotated[int, Field(ge=0, le=65_536)] | None = None
    """QuestionAnswering with dataset.overlong Split: tokens that a window has in common with the next; 128 when unset,
    and never more than half of those that the question leaves to the context."""

    @property
    def stride(self) -> int:
        """Tokens that two windows have in common at most."""
        return DOC_STRIDE if self.doc_stride is None else self.doc_stride
