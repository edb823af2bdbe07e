"""One JSON array of objects, read piece by piece."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from finetune_trainer.data.containers.record import Record, checked, open_binary
from finetune_trainer.data.findings import BrokenFileError

PIECE = 1 << 20
"""Bytes that are read at once; more where one element is longer."""
_NEAR_END = 12
"""An error this close to the end of what is read may only mean that the rest is not read yet."""


def read(path: Path) -> Iterator[Record]:
    """Read the elements of the array; an element's line is the one that it starts in."""
    with open_binary(path) as file:
        text = _Text(file)
        text.skip("[")
        closed = text.peek() == "]"
        while not closed:
            line, value = text.value()
            yield Record(line, value, checked(value))
            closed = text.peek() == "]"
            if not closed:
                text.skip(",")
        text.skip("]")
        if text.peek():
            raise BrokenFileError(text.line, "more text follows the end of the JSON array")


class _Text:
    """The part of a file that is not used up yet, as text."""

    def __init__(self, file: BinaryIO) -> None:
        self.line = 1
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._json = json.JSONDecoder()
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """The next character that is not blank, or an empty string at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._advance(self._at + 1)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self, wanted: str) -> None:
        """Use up one character."""
        found = self.peek()
        if found != wanted:
            raise BrokenFileError(self.line, f"'{wanted}' should follow here, not {found!r}" if found else _cut())
        self._advance(self._at + 1)

    def value(self) -> tuple[int, Any]:
        """The next JSON value, with the line it starts in."""
        if not self.peek():
            raise BrokenFileError(self.line, _cut())
        line = self.line
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                half = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR_END
                if half and self._more():
                    continue
                message = _cut() if half else f"not valid JSON: {error.msg}"
                raise BrokenFileError(line, f"{message}; the rest of the array is unknown") from None
            except ValueError:
                raise BrokenFileError(line, "a number of more digits than can be read") from None
            except RecursionError:
                raise BrokenFileError(line, "not valid JSON: nested too deeply") from None
            self._advance(end)
            return line, value

    def _advance(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """Read on; at least as much again as is waiting, so that a long element costs no quadratic time."""
        piece = self._file.read(max(PIECE, len(self._text) - self._at))
        self._text = self._text[self._at :] + self._decoder.decode(piece, final=not piece)
        self._at = 0
        return bool(piece)


def _cut() -> str:
    return "the file ends within the JSON array (was it cut off?)"
