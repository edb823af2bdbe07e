"""Seq2SeqLM: the source as the encoder reads it, and as targets the target's tokens, its end token among them."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from finetune_api.outcome import Reason
from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.rows import SourceTarget
from finetune_trainer.data.targets import Targeted, ids_of
from finetune_trainer.errors import RunError


class SequenceEncoder:
    """Encodes sources and targets.

    Raises:
        RunError: InvalidConfiguration: the tokenizer has no end token, so nothing can mark the end of a target.
    """

    labels = None

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise RunError(
                Reason.INVALID_CONFIGURATION,
                "the model's tokenizer has no eos_token, so nothing can mark the end of a target",
                "Name one in its tokenizer_config.json.",
            )
        self._end = tokenizer.eos_token_id
        self._cutter = deepcopy(tokenizer)  # cutting leaves its limit behind, and the next batch is under way
        self._inner = tokenizer.backend_tokenizer
        self._inner.no_truncation()
        self._inner.no_padding()

    def render(self, example: SourceTarget) -> SourceTarget:
        """Nothing is to be done."""
        return example

    def tokenize(self, rows: Sequence[SourceTarget]) -> list[Any]:
        """Tokenise sources and targets together, with the special tokens around each; the pairs lie side by side."""
        encodings = self._inner.encode_batch([text for row in rows for text in (row.source, row.target)])
        return list(zip(encodings[::2], encodings[1::2], strict=True))

    def label(self, rows: Sequence[SourceTarget], encodings: list[Any]) -> list[Targeted | RowError]:
        """End each target with the end token."""
        return [self._targeted(row, *pair) for row, pair in zip(rows, encodings, strict=True)]

    def _targeted(self, row: SourceTarget, source: Any, target: Any) -> Targeted | RowError:
        if not source.ids:
            return RowError("source gives no token", Kind.CONTENT)
        written = target.ids if target.ids[-1:] == [self._end] else [*target.ids, self._end]
        return self._row(row, ids_of(source.ids), ids_of(written))

    def _row(self, row: SourceTarget, ids: Any, targets: Any) -> Targeted:
        def shorten(length: int) -> Targeted:
            cut = self._cutter(row.source, truncation=True, max_length=length)["input_ids"]
            return self._row(row, ids_of(cut), targets[:length])

        segments = np.zeros(len(ids), dtype=np.uint8)
        return Targeted(ids, targets, segments, shorten, written=True, stops_at_all=targets[-1] == self._end)
