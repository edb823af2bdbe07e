"""What is wrong with a dataset is said with its reason, file and line."""

import json
from pathlib import Path

import pytest

from finetune_api.outcome import Reason
from tests.trainer.datafiles import ASSISTANT, END, USER, prepared, refused

GOOD = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def chat(*messages: object, **more: object) -> bytes:
    """One line of messages, with more keys beside them."""
    return json.dumps({"messages": list(messages), **more}).encode() + b"\n"


CALL = {"function": {"name": "f", "arguments": "{}"}}
BAD = {
    "half-written last line": (GOOD[:40], "was it cut off?"),
    "broken JSON": (b'{"messages": [}\n', "not valid JSON"),
    "a newline in a text": (b'{"messages": "hi\n', "Invalid control character at column 17"),
    "not an object": (b"[1, 2]\n", "is a list, not an object"),
    "a number": (b"17\n", "is the number 17, not an object"),
    "not UTF-8": (b'{"messages": "\xff"}\n', "not UTF-8: byte 0xff at column 15"),
    "other keys": (b'{"text": "hello"}\n', "needs `messages`, but has `text`"),
    "two formats": (chat(USER, ASSISTANT, prompt="x", completion="y"), "could be Messages or PromptCompletion"),
    "unknown role": (chat({"role": "bot", "content": "x"}, ASSISTANT), 'role "bot" is not one of system, user'),
    "no role": (chat({"content": "x"}, ASSISTANT), "role null is not one of"),
    "content null": (chat(USER, {"role": "assistant", "content": None}), "messages[1]: content is null"),
    "content missing": (chat(USER, {"role": "assistant"}), "messages[1]: content is missing"),
    "content a number": (chat(USER, {"role": "assistant", "content": 4.5}), "content is the number 4.5"),
    "content a list": (chat(USER, {"role": "assistant", "content": []}), "content is a list"),
    "half a surrogate pair": (chat(USER, {"role": "assistant", "content": "\ud83d"}), "\\ud83d"),
    "calls by a user": (chat({**USER, "tool_calls": [CALL]}, ASSISTANT), "only an assistant calls tools, not a user"),
    "a call without a name": (chat(USER, {**ASSISTANT, "tool_calls": [{}]}), "messages[1].tool_calls[0] is no call"),
    "arguments that are no JSON": (
        chat(USER, {**ASSISTANT, "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}),
        "arguments are not valid JSON",
    ),
    "arguments that are a list": (
        chat(USER, {**ASSISTANT, "tool_calls": [{"name": "f", "arguments": []}]}),
        "arguments are a list, not an object",
    ),
    "tools that are no list": (chat(USER, ASSISTANT, tools={"a": 1}), "tools is an object, not a list"),
    "a tool that is a word": (chat(USER, ASSISTANT, tools=["f"]), "tools[0] is a string, not an object"),
    "half a weight": (chat(USER, {**ASSISTANT, "weight": 0.5}), "weight is 0.5; it must be 0 or 1"),
    "a user with weight 1": (chat({**USER, "weight": 1}, ASSISTANT), "only assistant messages are trained"),
    "weight 0 everywhere": (chat(USER, {**ASSISTANT, "weight": 0}), "trains nothing: every assistant message has"),
    "an assistant first": (chat(ASSISTANT, USER), "starts with an assistant turn"),
    "no assistant": (chat(USER), "no assistant turn"),
    "no messages": (chat(), "messages is empty"),
    "messages no list": (b'{"messages": "hi"}\n', "messages is a string"),
    "message no object": (b'{"messages": ["hi"]}\n', "messages[0] is a string"),
}


@pytest.mark.parametrize("name", BAD)
def test_names_file_and_line(name: str, tmp_path: Path) -> None:
    """Any bad line among good ones ends the run, named by file, line and what is wrong; blank lines are counted too."""
    line, words = BAD[name]
    error = refused(tmp_path, {"train.jsonl": GOOD + b"\n" + GOOD + line})
    assert error.reason is Reason.INVALID_DATASET
    assert "train.jsonl:4: " in error.message
    assert words in error.message
    assert "1 of 3 rows" in error.message
    assert error.hint


def test_shows_five_findings_and_counts_all(tmp_path: Path) -> None:
    """Ten bad rows are ten in the message, by kind, of which five are spelt out."""
    lines = GOOD + BAD["no assistant"][0] * 6 + BAD["unknown role"][0] * 3 + BAD["half-written last line"][0]
    message = refused(tmp_path, {"train.jsonl": lines}).message
    for words in ("10 of 11 rows", "train.jsonl:2: ", "train.jsonl:6: ", "(and 5 more)"):
        assert words in message
    assert message.endswith("in all: 6 no assistant turn, 3 wrong role, 1 not readable")
    assert "train.jsonl:7" not in message


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
def test_an_empty_file_is_an_empty_dataset(content: bytes, tmp_path: Path) -> None:
    """No row is its own reason."""
    error = refused(tmp_path, {"train.jsonl": content})
    assert error.reason is Reason.EMPTY_DATASET
    assert "train.jsonl has no rows" in error.message


def test_a_file_of_nothing_but_bad_rows(tmp_path: Path) -> None:
    """Where no row can be read, no format can be told either, and the rows are named."""
    error = refused(tmp_path, {"train.jsonl": b"oops\n" * 7})
    assert error.reason is Reason.INVALID_DATASET
    assert "none of the first 7 rows can be used: train.jsonl:1: is not valid JSON" in error.message


def test_byte_order_mark_and_line_separators_do_no_harm(tmp_path: Path) -> None:
    """A byte-order mark is no content, and U+2028 is no end of a line."""
    row = {"messages": [{"role": "user", "content": "a\u2028"}, ASSISTANT]}
    content = "\ufeff" + json.dumps(row, ensure_ascii=False) + "\n" + GOOD.decode()
    made = prepared(tmp_path, {"train.jsonl": content.encode()})
    assert [text for text, _ in made.texts] == [
        f"<|im_start|>user\na{more}{END}\n<|im_start|>assistant\nb{END}\n" for more in ("\u2028", "")
    ]
