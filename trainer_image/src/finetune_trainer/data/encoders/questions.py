"""QuestionAnswering: question and context in one row; the targets are the first and the last token of the answer.

Trained is the first answer. A context that is cut before its answer ends trains nothing, and the row is left out.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.rows import Question
from finetune_trainer.data.targets import Targeted, ids_of
from finetune_trainer.data.tokens import IGNORED


class QuestionEncoder:
    """Encodes questions; with `evaluates` a row keeps what its answers are compared with."""

    labels = None

    def __init__(self, tokenizer: Any, *, evaluates: bool) -> None:
        self._evaluates = evaluates
        self._tokenizer = tokenizer
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
        results: list[Targeted | RowError] = []
        for row, encoding in zip(rows, encodings, strict=True):
            targeted = self._targeted(row, encoding)
            lost = not targeted.items
            results.append(RowError("answers.text[0] has no token in the context", Kind.CONTENT) if lost else targeted)
        return results

    def _targeted(self, row: Question, encoding: Any) -> Targeted:
        offsets, of_context = encoding.offsets, [number == 1 for number in encoding.sequence_ids]
        start, end = row.starts[0], row.starts[0] + len(row.answers[0])
        inside = [
            place
            for place, ((first, last), told) in enumerate(zip(offsets, of_context, strict=True))
            if told and first < end and last > start
        ]
        whole = bool(inside) and offsets[inside[-1]][1] >= end
        targets = [inside[0], inside[-1]] if whole else [IGNORED, IGNORED]

        def shorten(length: int) -> Targeted:
            try:
                cut = self._tokenizer(row.question, row.context, truncation="only_second", max_length=length)
            except Exception:
                return Targeted(ids_of(encoding.ids), ids_of([IGNORED, IGNORED]), segments, shorten)
            return self._targeted(row, cut.encodings[0])

        segments = np.asarray(encoding.type_ids, dtype=np.uint8)
        details = self._details(row, offsets, of_context) if self._evaluates else b""
        return Targeted(ids_of(encoding.ids), ids_of(targets), segments, shorten, details)

    def _details(self, row: Question, offsets: Sequence[tuple[int, int]], of_context: Sequence[bool]) -> bytes:
        spans = [offset if told else None for offset, told in zip(offsets, of_context, strict=True)]
        return json.dumps({"context": row.context, "answers": row.answers, "spans": spans}).encode()
