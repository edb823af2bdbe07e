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

from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.labels import Chat
from finetune_trainer.data.rows import Text, Tokens

IGNORED = -100
"""The label of a token that is not trained (torch's ignore_index)."""
Ids = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TokenRow:
    """One tokenised conversation; both arrays have shape [tokens]."""

    input_ids: Ids
    labels: Ids
    """The token's own id where it is trained, IGNORED elsewhere. Not shifted; the first is never trained."""

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.input_ids)

    @property
    def trained(self) -> int:
        """The number of tokens that give a loss."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True)
class Labelled:
    """A row before it is written; both arrays have shape [tokens]."""

    input_ids: Ids
    trained: Mask
    """The first is never trained: nothing predicts it."""
    stops: NDArray[np.intp]
    """Positions of the trained tokens that tell the model to stop, in order."""

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.input_ids)

    @property
    def row(self) -> TokenRow:
        """The row with labels."""
        return TokenRow(self.input_ids, np.where(self.trained, self.input_ids, np.int32(IGNORED)))

    def cut(self, length: int) -> "Labelled":
        """The first tokens of the row."""
        return Labelled(self.input_ids[:length], self.trained[:length], self.stops[self.stops < length])


@dataclass(frozen=True)
class _Encoded:
    """Token ids, and for each token the characters [start, end) that it stands for."""

    ids: Ids
    starts: Ids
    ends: Ids


class Labeller:
    """Tokenises with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._inner = tokenizer.backend_tokenizer
        self._inner.no_truncation()
        self._inner.no_padding()
        markers = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
        self._markers = np.array(sorted(markers), dtype=np.int32)
        self._end = tokenizer.eos_token_id

    def chats(self, chats: Sequence[Chat]) -> list[Labelled | RowError]:
        """Tokenise rendered chats; one that cannot be labelled gives its RowError in its place."""
        results: list[Labelled | RowError] = []
        for chat, encoded in zip(chats, self._encode([chat.text for chat in chats]), strict=True):
            try:
                results.append(self._label(chat, encoded))
            except RowError as error:
                results.append(error)
        return results

    def texts(self, texts: Sequence[Text]) -> list[Labelled | RowError]:
        """Tokenise texts as the tokenizer begins one (a BOS where the model has it), with the end token after each."""
        encoded = self._inner.encode_batch([text.text for text in texts], add_special_tokens=True)
        results: list[Labelled | RowError] = []
        for encoding in encoded:
            ids = encoding.ids if encoding.ids[-1:] == [self._end] else [*encoding.ids, self._end]
            row = self._whole(np.asarray(ids, dtype=np.int32), np.ones(len(ids), dtype=np.bool_))
            results.append(Labelled(row.input_ids, row.trained, np.array([len(ids) - 1])))
        return results

    def tokens(self, rows: Sequence[Tokens]) -> list[Labelled | RowError]:
        """Take over what is tokenised already."""
        results: list[Labelled | RowError] = []
        for row in rows:
            labelled = self._whole(np.asarray(row.input_ids, dtype=np.int32), np.asarray(row.trained, dtype=np.bool_))
            results.append(labelled if labelled.trained.any() else _nothing("it has no trained token"))
        return results

    def _whole(self, ids: Ids, trained: Mask) -> Labelled:
        trained[:1] = False
        return Labelled(ids, trained, np.flatnonzero(trained & np.isin(ids, self._markers)))

    def _encode(self, texts: list[str]) -> list[_Encoded]:
        # The template writes all special tokens itself; adding them again would double the BOS.
        return [_encoded(encoding) for encoding in self._inner.encode_batch(texts, add_special_tokens=False)]

    def _label(self, chat: Chat, encoded: _Encoded) -> Labelled:
        edges = sorted({edge for span in chat.spans for edge in span})
        if any(((encoded.starts < edge) & (edge < encoded.ends)).any() for edge in edges):
            encoded = self._encode_pieces(chat.text, edges)
        trained = np.zeros(len(encoded.ids), dtype=np.bool_)
        stops = []
        for start, end in chat.spans:
            inside = np.flatnonzero((start <= encoded.starts) & (encoded.ends <= end))
            kept, stop = self._without_tail(inside, encoded, chat.text)
            trained[inside if chat.whole else kept] = True
            stops += stop
        trained[:1] = False  # nothing predicts the first token
        if not trained.any():
            raise _nothing("the chat template leaves no token of the assistant's turns")
        found = np.array(stops, dtype=np.intp)
        if chat.whole and stops:  # the same token ends the turns before
            found = np.flatnonzero(trained & (encoded.ids == encoded.ids[stops[-1]]))
        return Labelled(encoded.ids, trained, found[trained[found]])

    def _without_tail(
        self, inside: NDArray[np.intp], encoded: _Encoded, text: str
    ) -> tuple[NDArray[np.intp], list[int]]:
        """Leave out what the template writes after the end-of-turn token: the model stops there in use.

        A template without such a token ends a turn with plain text, and then that text is the end and is trained.

        Returns:
            The trained positions, and the position of the end-of-turn token where there is one.
        """
        marks = np.flatnonzero(np.isin(encoded.ids[inside], self._markers))
        if not len(marks):
            return inside, []
        last = int(marks[-1])
        tail = text[encoded.ends[inside[last]] : encoded.ends[inside[-1]]]
        return (inside, []) if tail.strip() else (inside[: last + 1], [int(inside[last])])

    def _encode_pieces(self, text: str, edges: list[int]) -> _Encoded:
        cuts = sorted({0, *edges, len(text)})
        starts = [a for a, b in pairwise(cuts) if a < b]
        pieces = self._encode([text[a:b] for a, b in pairwise(cuts) if a < b])
        whole = _Encoded(
            np.concatenate([piece.ids for piece in pieces]),
            np.concatenate([piece.starts + start for piece, start in zip(pieces, starts, strict=True)]),
            np.concatenate([piece.ends + start for piece, start in zip(pieces, starts, strict=True)]),
        )
        if self._tokenizer.decode(whole.ids.tolist(), clean_up_tokenization_spaces=False) != text:
            raise RowError(
                "one token reaches over the border between prompt and answer, and this tokenizer cannot write the two "
                "apart; start the answer with other characters",
                Kind.TEMPLATE,
            )
        return whole


def _encoded(encoding: Any) -> _Encoded:
    """Leading blanks belong to the token that follows them: many tokenizers leave them out of the offsets."""
    offsets = np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2)
    ends = np.maximum.accumulate(offsets[:, 1])
    reached = np.concatenate([np.zeros(min(1, len(ends)), dtype=np.int32), ends[:-1]])
    return _Encoded(np.asarray(encoding.ids, dtype=np.int32), np.minimum(offsets[:, 0], reached), ends)


def _nothing(why: str) -> RowError:
    return RowError(f"trains nothing: {why}", Kind.TRAINS_NOTHING)
