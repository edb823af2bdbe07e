"""SequenceClassification: a text, or two, as the model's tokenizer writes them, and one target: the label's number."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.labelnames import LabelNames
from finetune_trainer.data.rows import LabelledText
from finetune_trainer.data.targets import Targeted, ids_of


class TextEncoder:
    """Encodes labelled texts."""

    def __init__(self, tokenizer: Any, labels: LabelNames) -> None:
        self.labels: LabelNames | None = labels
        self._names = labels
        self._cutter = deepcopy(tokenizer)  # cutting leaves its limit behind, and the next batch is under way
        self._inner = tokenizer.backend_tokenizer
        self._inner.no_truncation()
        self._inner.no_padding()

    def render(self, example: LabelledText) -> LabelledText:
        """Nothing is to be done."""
        return example

    def tokenize(self, rows: Sequence[LabelledText]) -> list[Any]:
        """Tokenise texts and pairs, with the special tokens around them."""
        texts = [row.text if row.pair is None else (row.text, row.pair) for row in rows]
        encodings: list[Any] = self._inner.encode_batch(texts, add_special_tokens=True)
        return encodings

    def label(self, rows: Sequence[LabelledText], encodings: list[Any]) -> list[Targeted | RowError]:
        """Give each row the number of its label."""
        results: list[Targeted | RowError] = []
        for row, encoding in zip(rows, encodings, strict=True):
            try:
                if not encoding.ids:
                    raise RowError("text gives no token", Kind.CONTENT)
                target = np.array([self._names.number(row.label, "label")], dtype=np.int32)
                results.append(self._targeted(row, target, encoding.ids, encoding.type_ids))
            except RowError as error:
                results.append(error)
        return results

    def _targeted(self, row: LabelledText, target: Any, ids: list[int], segments: list[int]) -> Targeted:
        def shorten(length: int) -> Targeted:
            cut = self._cutter(row.text, row.pair, truncation=True, max_length=length, return_token_type_ids=True)
            return self._targeted(row, target, cut["input_ids"], cut["token_type_ids"])

        return Targeted(ids_of(ids), target, np.asarray(segments, dtype=np.uint8), shorten)
