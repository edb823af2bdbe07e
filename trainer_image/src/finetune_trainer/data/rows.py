"""Read chat rows from JSONL, strictly: what a row does not say plainly is refused with its file and line.

A line is one of

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"prompt": "...", "completion": "..."}          becomes one user and one assistant message
    {"prompt": [messages], "completion": [messages]}   only the completion's assistant turns are trained

A tuned chat model is used through its chat template, so a plain prompt is trained through it too.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.outcome import Reason
from finetune_trainer.data.findings import Findings, RowError
from finetune_trainer.errors import RunError

ROLES = ("system", "user", "assistant", "tool")
Message = dict[str, str]
"""`role` and `content`."""


@dataclass(frozen=True)
class Row:
    """One conversation."""

    messages: tuple[Message, ...]
    line: int
    """Line in the file, from 1."""
    trained_from: int = 0
    """Assistant messages before this index are context and are not trained."""


def read_rows(path: Path) -> list[Row]:
    """Read every row of a JSONL file; blank lines are skipped.

    Raises:
        RunError: InvalidDataset with file:line of the first findings and their number; EmptyDataset for no row at all.
    """
    findings = Findings(path.name)
    rows = []
    for line, raw in _lines(path):
        try:
            rows.append(_row(raw, line))
        except RowError as error:
            findings.add(line, error)
    findings.raise_if_any(len(rows))
    if not rows:
        raise RunError(
            Reason.EMPTY_DATASET, f"{path.name} has no rows", "Write one JSON object a line, with `messages`."
        )
    return rows


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Non-blank lines with their number. Split at newlines only: JSON strings may hold U+2028 and friends."""
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if raw.strip():
                yield line, raw


def _row(raw: bytes, line: int) -> Row:
    row = _object(raw)
    if row.get("tools"):
        raise RowError("has `tools`, which is not supported yet")
    if "messages" in row:
        if "prompt" in row or "completion" in row:
            raise RowError("has both `messages` and `prompt`/`completion`; keep one of them")
        messages, trained_from = _messages(row["messages"], "messages"), 0
    elif "prompt" in row and "completion" in row:
        messages, trained_from = _prompt_completion(row["prompt"], row["completion"])
    else:
        keys = ", ".join(f"`{key}`" for key in list(row)[:6]) or "nothing"
        raise RowError(f"needs `messages`, or `prompt` and `completion`, but has {keys}")
    if not any(message["role"] == "assistant" for message in messages[trained_from:]):
        raise RowError("has no assistant turn, so nothing of it would be trained")
    return Row(tuple(messages), line, trained_from)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RowError(f"is not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}") from None
    except json.JSONDecodeError as error:
        half = " (the file ends within this line: was it cut off?)" if not raw.endswith(b"\n") else ""
        raise RowError(f"is not valid JSON: {error.msg} at column {error.colno}{half}") from None
    except RecursionError:
        raise RowError("is not valid JSON: nested too deeply") from None
    if not isinstance(row, dict):
        raise RowError(f"is {_kind(row)}, not an object")
    return row


def _prompt_completion(prompt: object, completion: object) -> tuple[list[Message], int]:
    """Messages and the index of the first one that may be trained."""
    if isinstance(prompt, str) and isinstance(completion, str):
        pair = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        return [_message(message, "prompt/completion") for message in pair], 1
    if isinstance(prompt, list) and isinstance(completion, list):
        context = _messages(prompt, "prompt")
        return context + _messages(completion, "completion"), len(context)
    raise RowError(
        f"prompt is {_kind(prompt)} and completion is {_kind(completion)}; both must be strings, or both lists of "
        "messages"
    )


def _messages(value: object, name: str) -> list[Message]:
    if not isinstance(value, list):
        raise RowError(f"{name} is {_kind(value)}, not a list")
    if not value:
        raise RowError(f"{name} is empty")
    return [_message(item, f"{name}[{index}]") for index, item in enumerate(value)]


def _message(value: object, name: str) -> Message:
    if not isinstance(value, dict):
        raise RowError(f"{name} is {_kind(value)}, not an object with role and content")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise RowError(f"{name}: role {json.dumps(role, ensure_ascii=False)[:60]} is not one of {', '.join(ROLES)}")
    if value.get("tool_calls"):
        raise RowError(f"{name} has `tool_calls`, which is not supported yet")
    if not isinstance(content, str):
        found = _kind(content) if "content" in value else "missing"
        raise RowError(f"{name}: content is {found}, not a string")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        bad = f"\\u{ord(content[error.start]):04x}"
        raise RowError(f"{name}: content has half of a surrogate pair, {bad}, which is no character") from None
    return {"role": str(role), "content": content}


def _kind(value: object) -> str:
    """What a JSON value is, as people say it, with the value where it is short."""
    if value is None:
        return "null"
    for kind, name in ((str, "a string"), (bool, "a boolean"), (list, "a list"), (dict, "an object")):
        if isinstance(value, kind):
            return name
    return f"the number {str(value)[:20]}"
