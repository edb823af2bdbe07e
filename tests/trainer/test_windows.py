"""A context that is too long for one row becomes windows, those of transformers' own recipe."""

import json
import random
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1 import Task, TaskType
from finetune_trainer.data.collate import Batch
from finetune_trainer.data.dataset import shown
from finetune_trainer.tasks.question_answering import QuestionAnswering
from finetune_trainer.tasks.questions import Question, Questions
from tests.trainer.datafiles import Prepared, line, prepared
from tests.trainer.taskcases import windows_by_hand
from tests.trainer.taskmodels import encoder_tokenizer

TOKENIZER = encoder_tokenizer()
Row = dict[str, Any]


def _read(folder: Path, rows: list[Row], length: int, stride: int | None = None, **options: Any) -> Prepared:
    task = Task(type=TaskType.QUESTION_ANSWERING, **({} if stride is None else {"doc_stride": stride}))
    file = {"rows.jsonl": b"".join(map(line, rows))}
    return prepared(folder, file, length, task=task, tokenizer=TOKENIZER, **{"overlong": "Split", **options})


def _row(question: str, context: str, start: int, end: int) -> Row:
    return {
        "question": question,
        "context": context,
        "answers": {"text": [context[start:end]], "answer_start": [start]},
    }


def _some_rows(count: int) -> list[Row]:
    """Contexts of up to five windows, a token a letter, and answers anywhere in them."""
    chance, rows = random.Random(7), []
    for _ in range(count):
        context = "".join(chance.choice("abcdef") for _ in range(chance.randint(2, 90)))
        start = chance.randrange(len(context))
        rows.append(_row("q" * chance.randint(1, 6), context, start, chance.randint(start + 1, len(context))))
    return rows


def test_windows_are_those_of_the_recipe(tmp_path: Path) -> None:
    """Tokens, segments and targets of each, in order; where the answer is not whole they name the first token."""
    rows, answered = _some_rows(200), 0
    for stride in (0, 1, 7):
        (folder := tmp_path / str(stride)).mkdir()
        found = _read(folder, rows, 30, stride).dataset
        expected = [window for row in rows for window in windows_by_hand(TOKENIZER, row, 30, stride)]
        assert len(found.rows) == len(expected) > len(rows)
        for row, window in zip(found.rows, expected, strict=True):
            assert row.segments is not None
            told = row.input_ids.tolist(), row.segments.tolist(), row.labels.tolist()
            assert told == (window["ids"], window["segments"], window["answer"])
            answered += window["answer"] != [0, 0]
        assert found.facts.tokens == sum(len(window["ids"]) for window in expected)
        assert (found.facts.dropped, found.facts.truncated) == (0, 0)
    assert 0 < answered < 3 * len(rows)


def test_a_long_question_leaves_less_in_common(tmp_path: Path) -> None:
    """Half of the room at most, so that windows get on; where there is no room at all the row is left out."""
    rows = [_row("q" * 23, "abcdefgh", 2, 4), _row("q" * 27, "abcdefgh", 2, 4), _row("q", "ab", 0, 1)]
    data = _read(tmp_path, rows, 30).dataset
    assert [TOKENIZER.decode(row.input_ids).split("<|im_end|>")[1] for row in data.rows] == [
        "abcd",
        "cdef",
        "efgh",
        "ab",
    ]
    assert (data.facts.dropped, data.facts.duplicates) == (1, 0)


def test_every_question_has_its_windows(tmp_path: Path) -> None:
    """Also of rows in one line of a file; a question that is asked twice is two, and one of them a duplicate."""
    rows = [*_some_rows(20), *_some_rows(1)]
    file = {"rows.json": json.dumps(rows).encode()}
    task = Task(type=TaskType.QUESTION_ANSWERING, doc_stride=5)
    data = prepared(tmp_path, file, 30, task=task, tokenizer=TOKENIZER, overlong="Split", trains=False)
    questions = Questions(data.dataset.rows)
    counts = [len(windows_by_hand(TOKENIZER, row, 30, 5)) for row in rows]
    assert [len(question.windows) for question in questions] == counts
    assert max(counts) > 2
    assert questions.lengths == [len(question) for question in questions]
    assert sum(question.trained for question in questions) == data.dataset.facts.trained_tokens
    assert data.dataset.facts.duplicates == 1
    longer = [count for count in counts if count > 1]
    assert f"{len(longer)} longer rows split into {sum(longer)} windows" in data.said[-1]


class _Sure(QuestionAnswering):
    """A model of which it is known what it answers: logits are written down for each window of a batch."""

    def __init__(self, windows: list[tuple[int, int, float]]) -> None:
        super().__init__(0, segments=True)
        object.__setattr__(self, "windows", iter(windows))

    def logits(self, _model: Any, batch: Batch) -> Any:
        import torch

        logits = torch.zeros(len(batch["input_ids"]), 2, batch["input_ids"].shape[1])
        for row in logits:
            first, last, score = next(self.windows)  # type: ignore[attr-defined]
            row[0, first] = row[1, last] = score / 2
        return logits


def test_the_surest_window_answers(tmp_path: Path) -> None:
    """Not the first one, nor one that is sure that the answer is not there; questions count once each."""
    rows = [
        _row("who?", "Ann and Bob and Cleo", 8, 11),
        _row("who?", "Eve", 0, 3),
        _row("who?", "a b c d e f g h i", 0, 1),
    ]
    data = _read(tmp_path, rows, 17, 0, trains=False).dataset
    questions = list(Questions(data.rows))
    assert [len(question.windows) for question in questions] == [2, 1, 2]
    texts = [TOKENIZER.decode(w.input_ids) for question in questions for w in question.windows]
    assert texts[0].endswith("Ann and Bo<|im_end|>")
    answers = [(6, 8, 3.0), (0, 0, 9.0), (6, 8, 1.0), (6, 6, 5.0), (9, 10, 4.0)]
    # "Ann", 3; nothing of the second window, where every span has at most 0; "Eve"; "a", 5; something else, 4
    task = _Sure(answers)
    scores = task.scores(task.sums(None, task.collator(questions), questions), sum(q.trained for q in questions))
    assert scores.metrics == {"exactMatch": 2 / 3, "f1": 2 / 3}
    one = Question(questions[0].windows[1:])
    assert _Sure([(6, 6, 1.0)]).sums(None, task.collator([one]), [one])[3] == 1


def test_a_window_without_the_answer_is_shown_as_such(tmp_path: Path) -> None:
    """For a person to check."""
    data = _read(tmp_path, [_row("who?", "Ann and Bob", 8, 11)], 14, 0).dataset
    told = [text.partition(" -> ")[2] for text in shown(data, TOKENIZER, TaskType.QUESTION_ANSWERING)]
    assert told == ["no answer in this window", "'Bob'"]
