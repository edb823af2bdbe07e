"""What is wrong with a dataset is said with its reason, file and line."""

import json
from pathlib import Path

import pytest

from finetune_api.outcome import Reason
from finetune_trainer.data.rows import read_rows
from finetune_trainer.errors import RunError

GOOD = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def chat(*messages: object, **more: object) -> bytes:
    """One line of messages, with more keys beside them."""
    return json.dumps({"messages": list(messages), **more}).encode() + b"\n"


USER = {"role": "user", "content": "a"}
ASSISTANT = {"role": "assistant", "content": "b"}

BAD = {
    "half-written last line": (GOOD[:40], "was it cut off?"),
    "broken JSON": (b'{"messages": [}\n', "not valid JSON"),
    "not an object": (b"[1, 2]\n", "is a list, not an object"),
    "a number": (b"17\n", "is the number 17, not an object"),
    "not UTF-8": (b'{"messages": "\xff"}\n', "not UTF-8: byte 0xff at column 15"),
    "other keys": (b'{"text": "hello"}\n', "needs `messages`, or `prompt` and `completion`, but has `text`"),
    "both forms": (chat(USER, ASSISTANT, prompt="x"), "has both"),
    "unknown role": (chat({"role": "bot", "content": "x"}, ASSISTANT), 'role "bot" is not one of system, user'),
    "no role": (chat({"content": "x"}, ASSISTANT), "role null is not one of"),
    "content null": (chat(USER, {"role": "assistant", "content": None}), "messages[1]: content is null"),
    "content missing": (chat(USER, {"role": "assistant"}), "messages[1]: content is missing"),
    "content a number": (chat(USER, {"role": "assistant", "content": 4.5}), "content is the number 4.5"),
    "content a list": (chat(USER, {"role": "assistant", "content": []}), "content is a list"),
    "half a surrogate pair": (chat(USER, {"role": "assistant", "content": "\ud83d"}), "\\ud83d"),
    "tool calls": (chat(USER, {**ASSISTANT, "tool_calls": [{}]}), "`tool_calls`, which is not supported"),
    "no assistant": (chat(USER), "no assistant turn"),
    "no messages": (chat(), "messages is empty"),
    "messages no list": (b'{"messages": "hi"}\n', "messages is a string"),
    "message no object": (b'{"messages": ["hi"]}\n', "messages[0] is a string"),
    "mixed prompt and completion": (b'{"prompt": "a", "completion": []}\n', "both must be strings"),
    "completion null": (b'{"prompt": "a", "completion": null}\n', "completion is null"),
    "nothing to learn": (
        b'{"prompt": [{"role": "assistant", "content": "x"}], "completion": [{"role": "user", "content": "y"}]}\n',
        "no assistant turn",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_names_file_and_line(name: str, tmp_path: Path) -> None:
    """Any bad line among good ones ends the run, named by file, line and what is wrong; blank lines are counted too."""
    line, words = BAD[name]
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD + b"\n" + GOOD + line)
    with pytest.raises(RunError) as caught:
        read_rows(path)
    assert caught.value.reason is Reason.INVALID_DATASET
    assert "train.jsonl:4: " in caught.value.message
    assert words in caught.value.message
    assert "1 of 3 rows" in caught.value.message
    assert caught.value.hint


def test_shows_five_findings_and_counts_all(tmp_path: Path) -> None:
    """Nine bad rows are nine in the message, of which five are spelt out."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD + BAD["no assistant"][0] * 9)
    with pytest.raises(RunError, match=r"9 of 10 rows .*train.jsonl:2: .*train.jsonl:6: .*\(and 4 more\)") as caught:
        read_rows(path)
    assert "train.jsonl:7" not in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
def test_an_empty_file_is_an_empty_dataset(content: bytes, tmp_path: Path) -> None:
    """No row is its own reason."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"train\.jsonl has no rows") as caught:
        read_rows(path)
    assert caught.value.reason is Reason.EMPTY_DATASET


def test_reads_all_three_forms(tmp_path: Path) -> None:
    """Messages, text pairs and conversational pairs become conversations; a byte-order mark and U+2028 do no harm."""
    path = tmp_path / "train.jsonl"
    pair = {"prompt": "a\u2028", "completion": "b"}
    talk = {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]}
    lines = [GOOD.decode(), json.dumps(pair, ensure_ascii=False) + "\n", json.dumps(talk)]
    path.write_text("\ufeff" + "".join(lines), encoding="utf-8")
    first, second, third = read_rows(path)
    assert first.messages == (USER, ASSISTANT)
    assert second.messages == ({"role": "user", "content": "a\u2028"}, ASSISTANT)
    assert (third.messages, third.trained_from, third.line) == ((USER, ASSISTANT, USER, ASSISTANT), 3, 3)
