"""QuestionAnswering: question and context in one row; the targets are the first and the last token of the answer.

Trained is the first answer. What is too long loses the end of its context, and then maybe the answer; or becomes
windows, as in transformers' recipe for SQuAD: each with the question and a part of the context, and some tokens in
common with the next. A window without the whole answer learns to point at its first token: no answer here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.rows import Question
from finetune_trainer.data.targets import Targeted, ids_of
from finetune_trainer.data.tokens import IGNORED

NO_ANSWER = 0
"""The token that both targets of a window without the answer name."""


class QuestionEncoder:
    """Encodes questions; with `evaluates` a row keeps what its answers are compared with."""

    labels = None

    def __init__(self, tokenizer: Any, *, evaluates: bool, stride: int = 0) -> None:
        self._evaluates = evaluates
        self._stride = stride
        self._inner = tokenizer.backend_tokenizer
        self._inner.no_truncation()
        self._inner.no_padding()

    def render(self, example: Question) -> Question:
        """Nothing is to be done."""
        return example

    def tokenize(self, rows: Sequence[Question]) -> list[Any]:
        """Tokenise question and context as a pair."""
        encodings: list[Any] = self._inner.encode_batch([(row.question, row.context) for row in rows])
        return encodings

    def label(self, rows: Sequence[Question], encodings: list[Any]) -> list[Targeted | RowError]:
        """Find the tokens of the first answer."""
        return [self._targeted(row, encoding) for row, encoding in zip(rows, encodings, strict=True)]

    def _targeted(self, row: Question, encoding: Any) -> Targeted | RowError:
        context = [place for place, number in enumerate(encoding.sequence_ids) if number == 1]
        start, end = row.starts[0], row.starts[0] + len(row.answers[0])
        inside = [place for place in context if encoding.offsets[place][0] < end and encoding.offsets[place][1] > start]
        if not inside:
            return RowError("answers.text[0] has no token in the context", Kind.CONTENT)
        return _Tokenized(row, encoding, context, (inside[0], inside[-1]), self._evaluates).whole(self._stride)


@dataclass(frozen=True)
class _Tokenized:
    """A row with all of its tokens."""

    row: Question
    encoding: Any
    context: list[int]
    """Places of its tokens, one after the other."""
    answer: tuple[int, int]
    """Places of the first and the last token of the answer."""
    evaluates: bool

    def whole(self, stride: int) -> Targeted:
        return self._part(0, len(self.context), lambda length: self._windows(length, stride))

    def _room(self, length: int) -> int:
        """Tokens of the context that a row of `length` tokens has; the question is never cut."""
        return length - len(self.encoding.ids) + len(self.context)

    def _cut(self, length: int) -> Targeted:
        return self._part(0, max(0, min(self._room(length), len(self.context))))

    def _windows(self, length: int, stride: int) -> list[Targeted]:
        """Windows of up to `length` tokens, `stride` of them in common with the next where the question leaves it."""
        room = self._room(length)
        if room < 1:
            return []
        step = room - min(stride, room // 2)
        starts = range(0, max(1, len(self.context) - room + step), step)
        return [self._part(start, min(start + room, len(self.context)), missing=NO_ANSWER) for start in starts]

    def _part(self, begin: int, end: int, windows: Any = None, missing: int = IGNORED) -> Targeted:
        """The row with tokens `begin` to `end` of its context, and all around them."""
        first, last = self.context[0] + begin, self.context[0] + end
        kept = [*range(self.context[0]), *range(first, last), *range(self.context[-1] + 1, len(self.encoding.ids))]
        held = first <= self.answer[0] and self.answer[1] < last
        targets = [place - begin for place in self.answer] if held else [missing, missing]
        return Targeted(
            ids_of([self.encoding.ids[place] for place in kept]),
            ids_of(targets),
            np.asarray([self.encoding.type_ids[place] for place in kept], dtype=np.uint8),
            self._cut,
            self._details(kept, first, last) if self.evaluates else b"",
            windows=windows,
        )

    def _details(self, kept: list[int], first: int, last: int) -> bytes:
        """The answers, the part of the context that is here, and where in it each token stands."""
        offsets = self.encoding.offsets
        begin, end = (offsets[first][0], offsets[last - 1][1]) if first < last else (0, 0)
        spans = [[offsets[place][0] - begin, offsets[place][1] - begin] if first <= place < last else None
                 for place in kept]  # fmt: skip
        return json.dumps(
            {"context": self.row.context[begin:end], "answers": self.row.answers, "spans": spans}
        ).encode()
