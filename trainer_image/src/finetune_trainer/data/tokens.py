"""From rendered text and trained spans to token ids and labels.

The text is tokenised once, and a token is trained when its characters lie in a span. In the rare case that one token
reaches over the edge of a span (an answer that starts with a newline after a template that ends with one), the text is
cut at the edges and tokenised in pieces: that is what happens in use, where the model goes on after a tokenised prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.findings import RowError
from finetune_trainer.data.labels import Chat

IGNORED = -100
"""The label of a token that is not trained (torch's ignore_index)."""


@dataclass(frozen=True)
class TokenRow:
    """One tokenised conversation; both arrays have shape [tokens]."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    """The token's own id where it is trained, IGNORED elsewhere. Not shifted; the first is never trained."""

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.input_ids)

    @property
    def trained(self) -> int:
        """The number of tokens that give a loss."""
        return int((self.labels != IGNORED).sum())


class Labeller:
    """Tokenises chats with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._markers = frozenset(tokenizer.added_tokens_decoder) | frozenset(tokenizer.all_special_ids)

    def tokenize(self, chats: Sequence[Chat]) -> list[TokenRow | RowError]:
        """Tokenise a batch; a chat that cannot be labelled gives its RowError in its place."""
        if not chats:
            return []
        encoded = self._encode([chat.text for chat in chats])
        results: list[TokenRow | RowError] = []
        for chat, ids, offsets in zip(chats, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            try:
                results.append(self._label(chat, ids, _ranges(offsets)))
            except RowError as error:
                results.append(error)
        return results

    def _encode(self, texts: list[str]) -> Any:
        # The template writes all special tokens itself; adding them again would double the BOS.
        return self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    def _label(self, chat: Chat, ids: list[int], ranges: list[tuple[int, int]]) -> TokenRow:
        edges = sorted({edge for span in chat.spans for edge in span})
        if _straddles(ranges, edges):
            ids, ranges = self._encode_pieces(chat.text, edges)
        labels = np.full(len(ids), IGNORED, dtype=np.int32)
        for start, end in chat.spans:
            inside = [i for i, (a, b) in enumerate(ranges) if start <= a and b <= end]
            for i in self._without_tail(inside, ids, ranges, chat.text):
                labels[i] = ids[i]
        labels[:1] = IGNORED  # nothing predicts the first token
        row = TokenRow(np.asarray(ids, dtype=np.int32), labels)
        if row.trained == 0:
            raise RowError("trains nothing: the chat template leaves no token of the assistant's turns")
        return row

    def _without_tail(self, inside: list[int], ids: list[int], ranges: list[tuple[int, int]], text: str) -> list[int]:
        """Leave out what the template writes after the end-of-turn token: the model stops there in use.

        A template without such a token ends a turn with plain text, and then that text is the end and is trained.
        """
        for position in reversed(range(len(inside))):
            index = inside[position]
            if ids[index] in self._markers:
                tail = text[ranges[index][1] : ranges[inside[-1]][1]]
                return inside[: position + 1] if not tail.strip() else inside
        return inside

    def _encode_pieces(self, text: str, edges: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        cuts = sorted({0, *edges, len(text)})
        pieces = [(a, text[a:b]) for a, b in pairwise(cuts) if a < b]
        encoded = self._encode([piece for _, piece in pieces])
        ids: list[int] = []
        ranges: list[tuple[int, int]] = []
        for (start, _), piece_ids, offsets in zip(pieces, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            ids += piece_ids
            ranges += [(start + a, start + b) for a, b in _ranges(offsets)]
        if self._tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
            raise RowError(
                "one token reaches over the border between prompt and answer, and this tokenizer cannot write the two "
                "apart; start the answer with other characters"
            )
        return ids, ranges


def _ranges(offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Character ranges of tokens, leading blanks included: many tokenizers leave them out of the offsets."""
    ranges = []
    reached = 0
    for start, end in offsets:
        ranges.append((min(start, reached), max(end, reached)))
        reached = max(reached, end)
    return ranges


def _straddles(ranges: list[tuple[int, int]], edges: list[int]) -> bool:
    """Whether a token's range has an edge inside it."""
    remaining = iter(edges)
    edge = next(remaining, None)
    for start, end in ranges:
        while edge is not None and edge <= start:
            edge = next(remaining, None)
        if edge is None:
            return False
        if start < edge < end:
            return True
    return False
