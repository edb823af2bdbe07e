"""Rows of every format become exactly the tokens that a reader of the format's description would write by hand."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcome import Reason
from tests.tiny import tiny_tokenizer
from tests.trainer.datafiles import ASSISTANT, END, TOKENIZER, USER, Prepared, decode, line, prepared, refused

SYSTEM = {"role": "system", "content": "s"}


def said(*messages: tuple[str, str]) -> str:
    """ChatML by hand."""
    return "".join(f"<|im_start|>{role}\n{content}{END}\n" for role, content in messages)


ROWS: dict[str, tuple[str, list[dict[str, Any]], list[tuple[str, list[str]]]]] = {
    "Messages": (
        "Messages",
        [{"messages": [SYSTEM, USER, ASSISTANT, USER, ASSISTANT], "id": 7}],
        [(said(("system", "s"), *[("user", "a"), ("assistant", "b")] * 2), ["b", "b"])],
    ),
    "PromptCompletion of texts": (
        "PromptCompletion",
        [{"prompt": "a", "completion": "b"}, {"prompt": "[1]", "completion": ""}],
        [(said(("user", "a"), ("assistant", "b")), ["b"]), (said(("user", "[1]"), ("assistant", "")), [""])],
    ),
    "PromptCompletion of messages": (
        "PromptCompletion",
        [{"prompt": [USER, ASSISTANT, USER], "completion": [{**ASSISTANT, "content": "c"}]}],
        [(said(("user", "a"), ("assistant", "b"), ("user", "a"), ("assistant", "c")), ["c"])],
    ),
    "Instruction": (
        "Instruction",
        [
            {"instruction": "do", "input": "this", "output": "done"},
            {"instruction": "do", "input": "", "output": "done", "system": None},
            {"instruction": "do", "output": "done", "system": "s"},
        ],
        [
            (said(("user", "do\n\nthis"), ("assistant", "done")), ["done"]),
            (said(("user", "do"), ("assistant", "done")), ["done"]),
            (said(("system", "s"), ("user", "do"), ("assistant", "done")), ["done"]),
        ],
    ),
    "ShareGPT": (
        "ShareGPT",
        [
            {
                "system": "s",
                "conversations": [
                    {"from": "human", "value": "a"},
                    {"from": "gpt", "value": "b", "weight": 0},
                    {"from": "observation", "value": "o"},
                    {"from": "gpt", "value": "c"},
                ],
            }
        ],
        [(said(("system", "s"), ("user", "a"), ("assistant", "b"), ("tool", "o"), ("assistant", "c")), ["c"])],
    ),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("named", [False, True])
def test_chats(name: str, named: bool, tmp_path: Path) -> None:
    """Every chat format is rendered as ChatML by hand, its answers and their ends trained; Auto finds the format."""
    format_, rows, expected = ROWS[name]
    made = prepared(tmp_path, {"r.jsonl": b"".join(map(line, rows))}, format=format_ if named else "Auto")
    assert made.texts == [(text, "".join(answer + END for answer in answers)) for text, answers in expected]
    assert made.dataset.facts.format == format_
    assert any(f"read as {format_}, for " in sentence for sentence in made.said) is not named


def test_text(tmp_path: Path) -> None:
    """All of a text is trained but its first token, with the end token after it, and no chat template around it."""
    made = prepared(tmp_path, {"r.jsonl": line({"text": "hello"}) + line({"text": "é" + END})})
    assert made.texts == [("hello" + END, "ello" + END), ("é" + END, decode(TOKENIZER.encode("é")[1:]) + END)]
    assert made.dataset.facts.format == "Text"


def test_text_begins_as_the_tokenizer_begins_it(tmp_path: Path) -> None:
    """A tokenizer that writes a BOS before a text writes it here too, once."""
    from tokenizers.processors import TemplateProcessing

    starting = tiny_tokenizer()
    starting.backend_tokenizer.post_processor = TemplateProcessing("<|im_start|> $A", None, [("<|im_start|>", 1)])
    made = prepared(tmp_path, {"r.jsonl": line({"text": "hello"})}, tokenizer=starting)
    assert made.texts == [(f"<|im_start|>hello{END}", "hello" + END)]
    chat = prepared(tmp_path, {"c.jsonl": line({"messages": [USER, ASSISTANT]})}, tokenizer=starting)
    assert chat.texts[0][0] == said(("user", "a"), ("assistant", "b"))


def test_tokenized(tmp_path: Path) -> None:
    """Token ids are taken as they are; labels tell what is trained, and without them everything is."""
    ids = TOKENIZER.encode("hello" + END)
    labels = [-100, -100, *ids[2:]]
    rows = line({"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}) + line({"input_ids": ids})
    made = prepared(tmp_path, {"r.jsonl": rows})
    assert [row.input_ids.tolist() for row in made.dataset.rows] == [ids, ids]
    assert [row.labels.tolist() for row in made.dataset.rows] == [labels, [-100, *ids[1:]]]
    other = prepared(
        tmp_path, {"o.jsonl": line({"ids": ids, "targets": labels})}, columns={"inputIds": "ids", "labels": "targets"}
    )
    assert [row.labels.tolist() for row in other.dataset.rows] == [labels]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"input_ids": [5, 6], "labels": [5, 7]}, "labels[1] is 7; it must be the token itself, 6, or -100"),
        ({"input_ids": [5, 6], "labels": [5]}, "has 1 labels for 2 tokens"),
        ({"input_ids": [5, -6]}, "input_ids has -6, which is no token"),
        ({"input_ids": [5, 2**31]}, "which is no token"),
        ({"input_ids": [5, 1.5]}, "input_ids has 1.5, which is no integer"),
        ({"input_ids": [5, None]}, "input_ids has None, which is no integer"),
        ({"input_ids": [5, True]}, "input_ids has True, which is no integer"),
        ({"input_ids": []}, "input_ids is empty"),
        ({"input_ids": [5, 6], "attention_mask": [1, 0]}, "is padded"),
        ({"input_ids": [5, 6], "labels": [-100, -100]}, "trains nothing"),
        ({"input_ids": [5]}, "trains nothing"),
        ({"text": ""}, "text is empty"),
        ({"text": None}, "text is null, not a string"),
        ({"prompt": "a", "completion": []}, "both must be strings"),
        ({"prompt": "a", "completion": None}, "completion is null"),
        ({"prompt": [ASSISTANT], "completion": [USER]}, "no assistant turn"),
        ({"instruction": "a", "output": 3}, "output is the number 3, not a string"),
        ({"instruction": "a", "input": ["b"], "output": "c"}, "input is a list, not a string"),
        ({"conversations": [{"from": "alien", "value": "a"}]}, 'role "alien" is not one of'),
        ({"conversations": [{"from": "human", "value": None}]}, "value is null, not a string"),
        ({"conversations": [USER, ASSISTANT]}, "dataset.columns.messages: conversations"),
        ({"conversations": "hi"}, "conversations is a string, not a list"),
    ],
)
def test_bad_rows_of_each_format(row: dict[str, object], words: str, tmp_path: Path) -> None:
    """What a format cannot mean is a finding, with the offending value."""
    error = refused(tmp_path, {"r.jsonl": line(row)})
    assert error.reason is Reason.INVALID_DATASET
    assert f"r.jsonl:1: {words}" in error.message or words in error.message.partition("r.jsonl:1: ")[2]


def test_columns_and_roles_may_have_other_names(tmp_path: Path) -> None:
    """A column is read under the name that the job file gives, and a role means what the job file says."""
    row = {
        "conv": [{"role": "customer", "content": "a"}, {"role": "agent", "content": "b"}],
        "messages": "not these",
    }
    made = prepared(
        tmp_path,
        {"r.jsonl": line(row)},
        columns={"messages": "conv"},
        roles={"customer": "user", "agent": "assistant"},
    )
    assert made.texts == [(said(("user", "a"), ("assistant", "b")), "b" + END)]
    gone = refused(tmp_path, {"r.jsonl": line({"messages": []})}, format="Messages", columns={"messages": "conv"})
    assert "needs `conv`, but has `messages`" in gone.message


def test_tools_reach_the_template(tmp_path: Path) -> None:
    """The row's tools stand where the template wants them, as objects, also where the file has them as JSON text."""
    shows = tiny_tokenizer()
    shows.chat_template = "{% for tool in tools or [] %}{{ tool['name'] + '!' }}{% endfor %}" + shows.chat_template
    rows = [{"messages": [USER, ASSISTANT], "tools": tools} for tools in ([{"name": "f"}], '[{"name": "g"}]', None)]
    made = prepared(tmp_path, {"r.jsonl": b"".join(map(line, rows))}, tokenizer=shows)
    plain = said(("user", "a"), ("assistant", "b"))
    assert [text for text, _ in made.texts] == ["f!" + plain, "g!" + plain, plain]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [USER, ASSISTANT], "text": "x"}, "could be Messages or Text"),
        ({"question": "x", "answer": "y"}, "its first row has `question`, `answer`, which is none of these: Messages"),
    ],
)
def test_auto_does_not_guess(row: dict[str, object], words: str, tmp_path: Path) -> None:
    """Columns of no format, or of two, are refused with the remedy; a named format settles two."""
    error = refused(tmp_path, {"r.jsonl": line(row)})
    assert error.reason is Reason.INVALID_DATASET
    assert words in error.message
    assert "dataset.format" in error.hint


def test_a_named_format_ignores_other_columns(tmp_path: Path) -> None:
    """Where the job file says what is meant, further columns do not matter."""
    made: Prepared = prepared(tmp_path, {"r.jsonl": line({"messages": "x", "text": "hello"})}, format="Text")
    assert made.texts == [("hello" + END, "ello" + END)]


def test_a_chat_needs_a_template_and_a_text_needs_an_end(tmp_path: Path) -> None:
    """What the model's tokenizer lacks is said; a base model without a chat template can learn texts."""
    bare = tiny_tokenizer()
    bare.chat_template = None
    error = refused(tmp_path, {"r.jsonl": line({"messages": [USER, ASSISTANT]})}, tokenizer=bare)
    assert error.reason is Reason.INVALID_CONFIGURATION
    assert "no chat template" in error.message
    assert prepared(tmp_path, {"r.jsonl": line({"text": "x"})}, tokenizer=bare).texts == [("x" + END, END)]
    bare.eos_token = None
    error = refused(tmp_path, {"t.jsonl": line({"text": "x"})}, tokenizer=bare)
    assert error.reason is Reason.INVALID_CONFIGURATION
    assert "no eos_token" in error.message
