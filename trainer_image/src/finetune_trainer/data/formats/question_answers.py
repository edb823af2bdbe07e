"""QuestionAnswers, as SQuAD has it: `{"question": "...", "context": "...", "answers": {...}}`.

`answers` is `{"text": ["...", ...], "answer_start": [0, ...]}`. They stand in the context, character by character.
"""

import json

from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.containers.record import kind_of
from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.formats.format import Fields, Format, Roles, filled_text
from finetune_trainer.data.rows import Question


def read(row: Fields, _roles: Roles) -> Question:
    """A row needs an answer: an evaluation compares with all, training uses the first."""
    question, context = filled_text(row["question"], "question"), filled_text(row["context"], "context")
    answers = _object(row["answers"])
    texts, starts = answers.get("text"), answers.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise RowError("answers needs lists text and answer_start of the same length", Kind.CONTENT)
    if not texts:
        raise RowError("answers is empty; a row without an answer cannot be trained", Kind.CONTENT)
    for index, (text, start) in enumerate(zip(texts, starts, strict=True)):
        filled_text(text, f"answers.text[{index}]")
        if type(start) is not int or start < 0:
            raise RowError(f"answers.answer_start[{index}] is {kind_of(start)}, no place in the context", Kind.CONTENT)
        if context[start : start + len(text)] != text:
            found = context[start : start + len(text)]
            raise RowError(
                f"answers.text[{index}] is {text!r:.60}, and the context has {found!r:.60} at character {start}",
                Kind.CONTENT,
            )
    return Question(question, context, tuple(texts), tuple(starts))


def _object(value: object) -> dict[str, object]:
    if isinstance(value, str) and value.lstrip().startswith("{"):  # in a table
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError(f"answers is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowError(f"answers is {kind_of(value)}, not an object")
    return value


QUESTION_ANSWERS = Format(DataFormat.QUESTION_ANSWERS, ("question", "context", "answers"), read)
