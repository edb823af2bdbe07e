"""JSON lines: one object a line; blank lines are skipped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.data.containers.record import Record, checked, kind_of, open_binary
from finetune_trainer.data.findings import Kind, RowError


def read(path: Path) -> Iterator[Record]:
    """Split at newlines only: JSON strings may hold U+2028 and friends."""
    with open_binary(path) as file:
        for line, raw in enumerate(file, start=1):
            if raw.strip():
                yield Record(line, raw, _row(raw))


def _row(raw: bytes) -> dict[str, Any] | RowError:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        message = f"is not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}"
        return RowError(message, Kind.NOT_UTF8)
    except json.JSONDecodeError as error:
        half = " (the file ends within this line: was it cut off?)" if not raw.endswith(b"\n") else ""
        what = error.msg.removesuffix(" at")
        return RowError(f"is not valid JSON: {what} at column {error.colno}{half}", Kind.UNREADABLE)
    except ValueError:
        return RowError("has a number of more digits than can be read", Kind.UNREADABLE)
    except RecursionError:
        return RowError("is not valid JSON: nested too deeply", Kind.UNREADABLE)
    if isinstance(value, dict) and b"\\u" not in raw:
        return value  # the bytes were UTF-8, so its strings are text
    return checked(value) if isinstance(value, dict) else RowError(f"is {kind_of(value)}, not an object")
