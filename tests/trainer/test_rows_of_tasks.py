"""Rows of every task: what is learned of them, and which of them cannot be used, with file and line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, normalizers

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Dataset as Spec
from finetune_api.v1alpha1 import Task, TaskType
from finetune_trainer.data.dataset import shown
from finetune_trainer.data.key import shard_key
from finetune_trainer.data.options import Options
from finetune_trainer.data.source import Source
from finetune_trainer.data.tokens import IGNORED
from finetune_trainer.errors import RunError
from finetune_trainer.tasks.collate import TargetCollator
from tests.trainer.datafiles import Prepared, decode, line, prepared, refused
from tests.trainer.taskmodels import END, encoder_tokenizer, seq2seq_tokenizer

TOKENIZER = encoder_tokenizer()
TEXTS, WORDS, TARGETS, ANSWERS = (
    Task(type=kind)
    for kind in (
        TaskType.SEQUENCE_CLASSIFICATION,
        TaskType.TOKEN_CLASSIFICATION,
        TaskType.SEQ2SEQ_LM,
        TaskType.QUESTION_ANSWERING,
    )
)
ANSWER = {"question": "who?", "context": "Ann and Bob", "answers": {"text": ["Bob"], "answer_start": [8]}}


def read(folder: Path, task: Task, rows: list[dict[str, Any]], **options: Any) -> Prepared:
    """Prepare rows for a task."""
    tokenizer = seq2seq_tokenizer() if task is TARGETS else TOKENIZER
    file = b"".join(line(row) for row in rows)
    return prepared(folder, {"rows.jsonl": file}, task=task, tokenizer=tokenizer, **options)


def test_a_text_has_the_number_of_its_label(tmp_path: Path) -> None:
    """Numbers follow the sorted names, whatever the order of the rows; whole numbers are sorted by value."""
    rows = [{"text": "x", "label": name} for name in ("no", "yes", "maybe", "yes")]
    for number, ordered in enumerate((rows, rows[::-1])):
        (folder := tmp_path / str(number)).mkdir()
        data = read(folder, TEXTS, ordered).dataset
        assert data.facts.labels == ["maybe", "no", "yes"]
        assert [data.facts.labels[row.labels[0]] for row in data.rows] == [row["label"] for row in ordered]
    (folder := tmp_path / "numbers").mkdir()
    data = read(folder, TEXTS, [{"text": "x", "label": number} for number in (10, 9, 0)]).dataset
    assert data.facts.labels == ["0", "9", "10"]
    assert [row.labels.tolist() for row in data.rows] == [[2], [1], [0]]


def test_labels_of_the_job_keep_its_order(tmp_path: Path) -> None:
    """Also where a row has none of one; and another one is no label."""
    rows = [{"text": "x", "label": "b"}, {"text": "x", "label": "a"}]
    data = read(tmp_path, TEXTS, rows, labels=["c", "b", "a"]).dataset
    assert (data.facts.labels, [int(row.labels[0]) for row in data.rows]) == (["c", "b", "a"], [1, 2])


def test_two_texts_are_told_apart(tmp_path: Path) -> None:
    """As the model's tokenizer writes a pair: the second text has segment 1."""
    (row,) = read(tmp_path, TEXTS, [{"text": "ab", "text_pair": "c", "label": "y"}], labels=["x", "y"]).dataset.rows
    plain = TOKENIZER("ab", "c")
    assert row.input_ids.tolist() == plain["input_ids"]
    assert row.segments is not None
    assert row.segments.tolist() == plain["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_a_batch_is_what_the_tokenizer_would_pad(tmp_path: Path) -> None:
    """Pairs of unlike lengths: tokens, attention and segments; a model without segments is given none."""
    pairs = [("ab", "c"), ("a", "bcdef")]
    rows = read(tmp_path, TEXTS, [{"text": a, "text_pair": b, "label": b} for a, b in pairs]).dataset.rows
    plain = TOKENIZER(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    batch = TargetCollator(0, segments=True)(list(rows))
    assert batch.pop("labels").tolist() == [[1], [0]]  # bcdef comes before c
    assert batch.keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in batch.items())
    assert "token_type_ids" not in TargetCollator(0, segments=False)(list(rows))


def test_a_word_is_labelled_at_its_first_token(tmp_path: Path) -> None:
    """The row is tokenised as the text that it is, blanks and all; the other tokens teach nothing."""
    (row,) = read(tmp_path, WORDS, [{"tokens": ["ab", "c", "def"], "tags": ["X", "Y", "X"]}]).dataset.rows
    assert row.input_ids.tolist() == TOKENIZER("ab c def")["input_ids"]
    assert row.labels.tolist() == [IGNORED, 0, IGNORED, IGNORED, 1, IGNORED, 0, IGNORED, IGNORED, IGNORED]
    # a tokenizer that draws a blank into the word behind it, as GPT-2's and Llama 3's do
    tokenizer = encoder_tokenizer()
    tokenizer.add_tokens([" c"])
    file = {"rows.jsonl": line({"tokens": ["ab", "c", "def"], "tags": ["X", "Y", "X"]})}
    (folder := tmp_path / "drawn").mkdir()
    (row,) = prepared(folder, file, task=WORDS, tokenizer=tokenizer).dataset.rows
    assert row.input_ids.tolist() == tokenizer("ab c def")["input_ids"]
    assert row.labels.tolist() == [IGNORED, 0, IGNORED, 1, IGNORED, 0, IGNORED, IGNORED, IGNORED]


def test_a_target_ends_with_the_end_token(tmp_path: Path) -> None:
    """Source and target as the model's tokenizer writes them; prompts and completions are read alike."""
    rows = [{"source": "ab", "target": "c"}]
    other = [{"prompt": "ab", "completion": "c"}]
    for name, each in (("one", rows), ("two", other)):
        (folder := tmp_path / name).mkdir()
        (row,) = read(folder, TARGETS, each).dataset.rows
        tokenizer = seq2seq_tokenizer()
        assert (row.input_ids.tolist(), row.labels.tolist()) == (
            tokenizer("ab")["input_ids"],
            tokenizer("c")["input_ids"],
        )
        assert row.labels[-1] == END


def test_a_tokenizer_without_ends_gets_one(tmp_path: Path) -> None:
    """The target ends with the end token all the same, and the source is as its tokenizer writes it."""
    (row,) = prepared(tmp_path, {"a.jsonl": line({"source": "ab", "target": "c"})}, task=TARGETS).dataset.rows
    assert decode(row.input_ids.tolist()) == "ab"
    assert decode(row.labels.tolist()) == "c<|im_end|>"


def test_a_target_counts_as_its_source_does(tmp_path: Path) -> None:
    """The longer of the two is what maxLength limits."""
    rows = [
        {"source": "a", "target": "abcdefgh"},
        {"source": "abcdefgh", "target": "a"},
        {"source": "a", "target": "a"},
    ]
    facts = read(tmp_path, TARGETS, rows, max_length=6).dataset.facts
    assert (facts.dropped, facts.longest) == (2, 9)


def test_an_answer_is_its_first_and_last_token(tmp_path: Path) -> None:
    """Decoded they are the answer; what an evaluation needs is kept for held-out rows only."""
    for name, trains in (("train", True), ("eval", False)):
        (folder := tmp_path / name).mkdir()
        (row,) = read(folder, ANSWERS, [ANSWER], trains=trains).dataset.rows
        first, last = row.labels
        assert TOKENIZER.decode(row.input_ids[first : last + 1]) == "Bob"
        assert bool(row.details) is not trains


BAD: list[tuple[Task, dict[str, Any], str]] = [
    (TEXTS, {"text": "x", "label": 0.5}, "label is the number 0.5, neither a string nor a whole number"),
    (TEXTS, {"text": "x", "label": True}, "label is a boolean"),
    (TEXTS, {"text": "x", "label": None}, "label is null"),
    (TEXTS, {"text": "x", "label": ""}, "label has 0 characters"),
    (TEXTS, {"text": " ", "label": "a"}, "text is empty"),
    (TEXTS, {"text": ["x"], "label": "a"}, "text is a list, not a string"),
    (TEXTS, {"text": "x", "text_pair": "", "label": "a"}, "text_pair is empty"),
    (TEXTS, {"text": "x"}, "needs `text` and `label`, but has `text`"),
    (TEXTS, {"text": "x", "label": "c"}, "label is 'c', which is not among the labels a, b"),
    (WORDS, {"tokens": ["x", "y"], "tags": ["a"]}, "has 1 tags for 2 tokens"),
    (WORDS, {"tokens": ["x", ""], "tags": ["a", "b"]}, r"tokens\[1\] is empty"),
    (WORDS, {"tokens": "x", "tags": ["a"]}, "tokens is a string, not a list"),
    (WORDS, {"tokens": ["x", "y"], "tags": ["a", "c"]}, r"tags\[1\] is 'c', which is not among the labels a, b"),
    (TARGETS, {"source": "x", "target": ""}, "target is empty"),
    (TARGETS, {"source": None, "target": "x"}, "source is null, not a string"),
    (ANSWERS, {**ANSWER, "answers": {"text": ["Bob"], "answer_start": [7]}}, "the context has ' Bo' at character 7"),
    (ANSWERS, {**ANSWER, "answers": {"text": ["Eve"], "answer_start": [99]}}, "the context has '' at character 99"),
    (ANSWERS, {**ANSWER, "answers": {"text": [], "answer_start": []}}, "answers is empty"),
    (ANSWERS, {**ANSWER, "answers": {"text": ["Bob"]}}, "answers needs lists text and answer_start"),
    (ANSWERS, {**ANSWER, "answers": {"text": ["Bob"], "answer_start": ["8"]}}, r"answer_start\[0\] is a string"),
    (ANSWERS, {**ANSWER, "answers": "Bob"}, "answers is a string, not an object"),
    (ANSWERS, {**ANSWER, "context": ""}, "context is empty"),
]
GOOD = {
    TaskType.SEQUENCE_CLASSIFICATION: {"text": "x", "label": "a"},
    TaskType.TOKEN_CLASSIFICATION: {"tokens": ["x"], "tags": ["b"]},
    TaskType.SEQ2SEQ_LM: {"source": "x", "target": "y"},
    TaskType.QUESTION_ANSWERING: ANSWER,
}


def unread(folder: Path, task: Task, rows: list[dict[str, Any]], **options: Any) -> RunError:
    """Rows that a task refuses."""
    tokenizer = seq2seq_tokenizer() if task is TARGETS else TOKENIZER
    return refused(folder, {"rows.jsonl": b"".join(map(line, rows))}, task=task, tokenizer=tokenizer, **options)


@pytest.mark.parametrize(("task", "row", "says"), BAD)
def test_bad_rows_have_file_and_line(task: Task, row: dict[str, Any], says: str, tmp_path: Path) -> None:
    """The second row is bad: nothing is written, and the message names it."""
    labels = ["a", "b"] if task.type.has_labels else None
    error = unread(tmp_path, task, [GOOD[task.type], row], labels=labels)
    assert error.reason is Reason.INVALID_DATASET
    assert re.search(rf"rows\.jsonl:2: .*{says}", error.message), error.message


def test_a_word_without_a_token_is_found(tmp_path: Path) -> None:
    """Its label would be lost: here a tokenizer that drops what is no letter."""
    tokenizer = encoder_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("[^a-z]"), "")
    file = {"rows.jsonl": line({"tokens": ["a", "7", "b"], "tags": ["X", "Y", "X"]})}
    error = refused(tmp_path, file, task=WORDS, tokenizer=tokenizer)
    assert "rows.jsonl:1: tokens[1] is '7', which gives no token" in error.message


def test_one_label_tells_nothing_apart(tmp_path: Path) -> None:
    """Rows that all have one label are no classification."""
    error = unread(tmp_path, TEXTS, [{"text": "x", "label": "a"}] * 3)
    assert (error.reason, "have 1 label, a;" in error.message) == (Reason.INVALID_DATASET, True)


def test_too_many_labels_are_rather_texts(tmp_path: Path) -> None:
    """The 513th is named."""
    error = unread(tmp_path, TEXTS, [{"text": "x", "label": f"label {number}"} for number in range(600)])
    assert "rows.jsonl:513: label is 'label 512', the 513th label: is it a text?" in error.message


def test_auto_looks_at_the_formats_of_the_task_only(tmp_path: Path) -> None:
    """It says what it found and why; rows of another task are refused with the columns that are missing."""
    said = read(tmp_path, WORDS, [{"tokens": ["a", "b"], "tags": ["X", "Y"], "text": "a b"}]).said
    assert "rows.jsonl: read as TokensTags, for 1 of its first 1 rows have `tokens` and `tags`" in said
    error = unread(tmp_path, TEXTS, [{"messages": []}])
    assert "cannot be told for task.type SequenceClassification" in error.message
    assert "has `messages`, which is none of these: TextLabel: `text` and `label`" in error.message


def test_columns_have_the_files_names(tmp_path: Path) -> None:
    """Renamed columns are read, and named so where they are missing."""
    data = read(tmp_path, WORDS, [{"words": ["a", "b"], "ner": [1, 0]}], columns={"tokens": "words", "tags": "ner"})
    assert data.dataset.rows[0].labels.tolist() == [IGNORED, 1, IGNORED, 0, IGNORED]


LONG = {
    TaskType.SEQUENCE_CLASSIFICATION: {"text": "abcdefgh", "label": "a"},
    TaskType.TOKEN_CLASSIFICATION: {"tokens": ["ab", "cdef", "gh"], "tags": ["a", "b", "a"]},
    TaskType.SEQ2SEQ_LM: {"source": "abcdefgh", "target": "abcdefghi"},
}


@pytest.mark.parametrize("task", [TEXTS, WORDS, TARGETS], ids=lambda task: task.type)
def test_a_long_row_is_cut_as_its_tokenizer_cuts(task: Task, tmp_path: Path) -> None:
    """With its special tokens at the end; Drop leaves it out, and both are counted."""
    labels = ["a", "b"] if task.type.has_labels else None
    rows = [LONG[task.type], GOOD[task.type]]
    data = read(tmp_path, task, rows, max_length=6, overlong="Truncate", labels=labels).dataset
    assert (data.facts.truncated, data.facts.dropped, len(data.rows)) == (1, 0, 2)
    row, text = data.rows[0], "ab cdef gh" if task is WORDS else "abcdefgh"
    if task is TARGETS:
        assert row.input_ids.tolist() == seq2seq_tokenizer()(text, truncation=True, max_length=6)["input_ids"]
        assert len(row.labels) == 6
        assert data.facts.unfinished == 1
    else:
        assert row.input_ids.tolist() == TOKENIZER(text, truncation=True, max_length=6)["input_ids"]
    if task is WORDS:
        assert row.labels.tolist() == [IGNORED, 0, IGNORED, IGNORED, 1, IGNORED]
    (folder := tmp_path / "drop").mkdir()
    dropped = read(folder, task, rows, max_length=6, labels=labels).dataset
    assert (dropped.facts.dropped, len(dropped.rows)) == (1, 1)


@pytest.mark.parametrize("task", [TEXTS, WORDS, TARGETS, ANSWERS], ids=lambda task: task.type)
def test_a_long_row_changes_no_other_one(task: Task, tmp_path: Path) -> None:
    """Rows are tokenised a batch ahead of those that are cut: all long rows of later batches are cut and counted."""
    long = {**LONG, TaskType.QUESTION_ANSWERING: {**ANSWER, "context": "Ann and Bob" + "!" * 9}}[task.type]
    rows = [long if number % 2 else GOOD[task.type] for number in range(1200)]
    limit = 20 if task is ANSWERS else 6
    labels = ["a", "b"] if task.type.has_labels else None
    facts = read(tmp_path, task, rows, max_length=limit, overlong="Truncate", labels=labels).dataset.facts
    assert (facts.truncated, facts.dropped, facts.invalid) == (600, 0, 0)


def test_an_answer_behind_the_cut_is_left_out_and_counted(tmp_path: Path) -> None:
    """The context is cut, never the question: a row whose answer is lost trains nothing, another one stays."""
    who = {"question": "who on earth is it?"}  # longer than its context
    early = {**ANSWER, **who, "answers": {"text": ["Ann"], "answer_start": [0]}}
    data = read(tmp_path, ANSWERS, [{**ANSWER, **who}, early], max_length=27, overlong="Truncate").dataset
    assert (data.facts.dropped, data.facts.truncated, len(data.rows)) == (1, 1, 1)
    (row,) = data.rows
    assert TOKENIZER.decode(row.input_ids) == "<|im_start|>who on earth is it?<|im_end|>Ann a<|im_end|>"
    assert TOKENIZER.decode(row.input_ids[row.labels[0] : row.labels[1] + 1]) == "Ann"


def test_what_is_learned_is_shown(tmp_path: Path) -> None:
    """The first rows as sentences: for a person to check."""
    sentences = (
        (TEXTS, GOOD[TEXTS.type], "'<|im_start|>x<|im_end|>' -> a"),
        (WORDS, {"tokens": ["xy", "z"], "tags": ["a", "b"]}, "'<|im_start|>xy z<|im_end|>' -> 'x'=a 'z'=b"),
        (TARGETS, GOOD[TARGETS.type], "'x<|im_end|>' -> 'y<|im_end|>'"),
        (ANSWERS, ANSWER, "'<|im_start|>who?<|im_end|>Ann and Bob<|im_end|>' -> 'Bob'"),
    )
    for task, row, says in sentences:
        (folder := tmp_path / task.type).mkdir()
        data = read(folder, task, [row], labels=["a", "b"] if task.type.has_labels else None).dataset
        assert list(shown(data, TOKENIZER, task.type)) == [f"a row, and what is to be learned of it: {says}"]


def test_the_key_changes_with_task_and_labels(tmp_path: Path) -> None:
    """Rows that were stored for another task, or other labels, are not those of this one."""
    spec = Spec.model_validate_json(json.dumps({"train": {"uri": "s3://data/rows"}}))
    source = Source("rows", (), "0" * 64)
    tasks = [Task(), TEXTS, WORDS, *(Task(type=TEXTS.type, labels=labels) for labels in (["a", "b"], ["b", "a"]))]
    keys = [shard_key(source, Options(spec, 10, task=task), tmp_path, training) for task in tasks for training in "xy"]
    assert len(set(keys)) == 2 * len(tasks) - 1  # a chat knows no labels of other rows
