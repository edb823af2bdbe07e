"""TokenClassification: words, each with a label; the first token of a word has it, the others are IGNORED.

The words are tokenised as one text, with blanks between them. Many tokenizers (GPT-2's, RoBERTa's, Llama 3's) have
other tokens for a word behind a blank, and text is what the model will be given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.labelnames import LabelNames
from finetune_trainer.data.rows import TaggedWords
from finetune_trainer.data.targets import Targeted, ids_of
from finetune_trainer.data.tokens import IGNORED


class WordEncoder:
    """Encodes tagged words."""

    def __init__(self, tokenizer: Any, labels: LabelNames) -> None:
        self.labels: LabelNames | None = labels
        self._names = labels
        self._inner = tokenizer.backend_tokenizer
        self._inner.no_truncation()
        self._inner.no_padding()

    def render(self, example: TaggedWords) -> TaggedWords:
        """Nothing is to be done."""
        return example

    def tokenize(self, rows: Sequence[TaggedWords]) -> list[Any]:
        """Tokenise the words of each row, with the special tokens around them."""
        texts = [" ".join(row.words) for row in rows]
        encodings: list[Any] = self._inner.encode_batch(texts, add_special_tokens=True)
        return encodings

    def label(self, rows: Sequence[TaggedWords], encodings: list[Any]) -> list[Targeted | RowError]:
        """Give the first token of each word the number of its label."""
        results: list[Targeted | RowError] = []
        for row, encoding in zip(rows, encodings, strict=True):
            try:
                numbers = [self._names.number(tag, f"tags[{index}]") for index, tag in enumerate(row.tags)]
                results.append(_targeted(row, numbers, encoding))
            except RowError as error:
                results.append(error)
        return results


def _targeted(row: TaggedWords, numbers: list[int], encoding: Any) -> Targeted:
    words = _words(row.words, encoding)
    first = {word: place for place, word in reversed(list(enumerate(words))) if word is not None}
    lost = next((word for word in range(len(numbers)) if word not in first), None)
    if lost is not None:
        raise RowError(f"tokens[{lost}] is {row.words[lost]!r:.40}, which gives no token", Kind.CONTENT)
    targets = np.full(len(words), IGNORED, dtype=np.int32)
    for word, place in first.items():
        targets[place] = numbers[word]
    ids, special = ids_of(encoding.ids), [place for place, word in enumerate(words) if word is None]
    tail = sum(1 for place in special if place > max(first.values()))

    def shorten(length: int) -> Targeted:
        # The first tokens, and the special ones that end a row.
        kept = (
            np.r_[0 : max(length - tail, 0), len(ids) - tail : len(ids)] if len(ids) > length else np.arange(len(ids))
        )
        return Targeted(ids[kept], targets[kept], np.zeros(len(kept), dtype=np.uint8), shorten)

    return Targeted(ids, targets, np.zeros(len(ids), dtype=np.uint8), shorten)


def _words(words: Sequence[str], encoding: Any) -> list[int | None]:
    """For each token the word that its last character lies in; None of special ones, and of a blank alone."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1  # where the blanks are
    special, spans = encoding.special_tokens_mask, encoding.offsets
    found: list[int | None] = []
    for is_special, (start, end) in zip(special, spans, strict=True):
        word = int(np.searchsorted(ends, end - 1))
        blank = end <= start or is_special or end - 1 == ends[word]
        found.append(None if blank else word)
    return found
