"""From rendered text and trained spans to token ids and labels.

The text is tokenised once, and a token is trained when its characters lie in a span. In the rare case that one token
reaches over the edge of a span (an answer that starts with a newline after a template that ends with one), the text is
cut at the edges and tokenised in pieces: that is what happens in use, where the model goes on after a tokenised prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.data.labels import Chat, Span
from finetune_trainer.data.rows import Tokens

IGNORED = -100
"""The label of a token that is not trained (torch's ignore_index)."""
Ids = NDArray[np.int32]
Mask = NDArray[np.bool_]


Segments = NDArray[np.uint8]


@dataclass(frozen=True)
class TokenRow:
    """One tokenised row."""

    input_ids: Ids
    """Shape [tokens]."""
    labels: Ids
    """Of CausalLM [tokens]: the token's own id where it is trained, IGNORED elsewhere. Not shifted; the first is never
    trained. Of other tasks as `Labelled.targets`."""
    segments: Segments | None = None
    """Of other tasks than CausalLM, shape [tokens]: 1 for tokens of a second text."""
    details: bytes = b""
    """What an evaluation wants to know beside the tokens."""

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.input_ids)

    @property
    def trained(self) -> int:
        """The number of tokens, or other items, that give a loss."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True)
class Labelled:
    """A row before it is written; arrays have shape [tokens] where nothing else is said."""

    input_ids: Ids
    trained: Mask
    """Of CausalLM. The first is never trained: nothing predicts it."""
    stops: NDArray[np.intp]
    """Positions of the trained tokens that tell the model to stop, in order."""

    def __len__(self) -> int:
        """The number of tokens, as training.maxLength counts them."""
        return len(self.input_ids)

    @property
    def items(self) -> int:
        """The number of tokens, or other items, that give a loss."""
        return int(self.trained.sum())

    @property
    def largest_token(self) -> int:
        """The largest token id."""
        return int(self.input_ids.max())

    @property
    def identity(self) -> tuple[bytes, bytes]:
        """What two rows that are trained alike have in common."""
        return self.input_ids.tobytes(), self.trained.tobytes()

    @property
    def stops_at_all(self) -> bool:
        """Whether it trains a token that tells the model to stop."""
        return len(self.stops) > 0

    def loses_end(self, length: int) -> bool:
        """Whether the token that ends the last trained turn is behind `length`.

        Of a row without one, of a template that ends a turn with plain text: its last trained token.
        """
        end = self.stops[-1] if self.stops_at_all else self.trained.nonzero()[0][-1]
        return bool(end >= length)

    @property
    def row(self) -> TokenRow:
        """The row with labels."""
        return TokenRow(self.input_ids, np.where(self.trained, self.input_ids, np.int32(IGNORED)))

    def cut(self, length: int) -> "Labelled":
        """The first tokens of the row."""
        return Labelled(self.input_ids[:length], self.trained[:length], self.stops[self.stops < length])


@dataclass(frozen=True)
class _Encoded:
    """Token ids, and for each token the characters [start, end) that it stands for; neither ever goes back."""

    ids: Ids
    starts: Ids
    ends: Ids

    def straddles(self, edges: Sequence[int]) -> bool:
        """Whether a token has an edge inside it: the first that ends behind the edge starts before it."""
        behind = np.searchsorted(self.ends, edges, side="right")
        return any(
            index < len(self.ids) and self.starts[index] < edge for index, edge in zip(behind, edges, strict=True)
        )

    def inside(self, span: Span) -> tuple[int, int]:
        """The positions [first, end) of the tokens that lie in a span."""
        first, end = (
            np.searchsorted(self.starts, span[0], side="left"),
            np.searchsorted(self.ends, span[1], side="right"),
        )
        return int(first), max(int(first), int(end))


_BLANK = "\u0120"  # how byte-level vocabularies write a blank


class Labeller:
    """Tokenises with one tokenizer, and labels what comes out.

    The two are apart because tokenising runs without Python's lock: it may happen in another thread meanwhile.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._inner = tokenizer.backend_tokenizer
        self._inner.no_truncation()
        self._inner.no_padding()
        vocabulary, markers = self._inner.get_vocab(), _markers(tokenizer)
        size = 1 + max([*vocabulary.values(), *markers])
        self._markers = np.array(markers, dtype=np.int32)
        self._is_marker = np.zeros(size, np.bool_)
        self._is_marker[self._markers] = True
        self._end = tokenizer.eos_token_id
        self._blanks_behind = np.zeros(size, np.int32)
        for token, number in vocabulary.items():
            self._blanks_behind[number] = len(token) - len(token.rstrip(_BLANK)) if token.strip(_BLANK) else 0

    def tokenize(self, texts: Sequence[str], *, begun: bool) -> list[Any]:
        """Tokenise texts together; with `begun` a text already has what the tokenizer would put before it."""
        encodings: list[Any] = self._inner.encode_batch(texts, add_special_tokens=not begun)
        return encodings

    def chats(self, chats: Sequence[Chat], encodings: Sequence[Any]) -> list[Labelled | RowError]:
        """Label rendered chats; one that cannot be labelled gives its RowError in its place."""
        results: list[Labelled | RowError] = []
        for chat, encoding in zip(chats, encodings, strict=True):
            try:
                results.append(self._label(chat, _encoded(encoding, self._blanks_behind)))
            except RowError as error:
                results.append(error)
        return results

    def texts(self, encodings: Sequence[Any]) -> list[Labelled | RowError]:
        """Label plain texts, with the end token after each."""
        results: list[Labelled | RowError] = []
        for encoding in encodings:
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

    def _label(self, chat: Chat, encoded: _Encoded) -> Labelled:
        edges = sorted({edge for span in chat.spans for edge in span})
        if encoded.straddles(edges):
            encoded = self._encode_pieces(chat.text, edges)
        trained = np.zeros(len(encoded.ids), dtype=np.bool_)
        stops = []
        for span in chat.spans:
            first, end = encoded.inside(span)
            stop = self._stop(first, end, encoded, chat.text)
            trained[first : end if chat.whole or stop is None else stop + 1] = True
            stops += [] if stop is None else [stop]
        trained[:1] = False  # nothing predicts the first token
        if not trained.any():
            raise _nothing("the chat template leaves no token of the assistant's turns")
        found = np.array(stops, dtype=np.intp)
        if chat.whole and stops:  # the same token ends the turns before
            found = np.flatnonzero(trained & (encoded.ids == encoded.ids[stops[-1]]))
        return Labelled(encoded.ids, trained, found[trained[found]])

    def _stop(self, first: int, end: int, encoded: _Encoded, text: str) -> int | None:
        """The position of the token that ends a turn; only blanks follow it.

        What the template writes after it is not trained: the model stops there in use. A template without such a token
        ends a turn with plain text, and then that text is the end and is trained.
        """
        marks = np.flatnonzero(self._is_marker[encoded.ids[first:end]])
        if not len(marks):
            return None
        last = first + int(marks[-1])
        return None if text[encoded.ends[last] : encoded.ends[end - 1]].strip() else last

    def _encode_pieces(self, text: str, edges: list[int]) -> _Encoded:
        cuts = sorted({0, *edges, len(text)})
        starts = [a for a, b in pairwise(cuts) if a < b]
        # The template writes all special tokens itself; adding them again would double the BOS.
        encodings = self.tokenize([text[a:b] for a, b in pairwise(cuts) if a < b], begun=True)
        pieces = [_encoded(encoding, self._blanks_behind) for encoding in encodings]
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


def _markers(tokenizer: Any) -> list[int]:
    """Tokens that may end a turn: special ones, and added ones that the chat template writes.

    Other added tokens are text, runs of blanks or `</table>`: to train one teaches no model to stop.
    """
    template = str(tokenizer.chat_template or "")
    added = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip() and (token.special or token.content in template)
    }
    return sorted({*added, *tokenizer.all_special_ids})


def _encoded(encoding: Any, blanks_behind: Ids) -> _Encoded:
    """Leading blanks belong to the token that follows them: many tokenizers leave them out of the offsets.

    So do they with those at a token's end, which are its own: `blanks_behind` has their number, by token.
    """
    ids, pairs = encoding.ids, encoding.offsets
    offsets = np.fromiter(chain.from_iterable(pairs), np.int32, 2 * len(ids)).reshape(-1, 2)
    gaps = np.maximum(offsets[1:, 0] - offsets[:-1, 1], 0)
    offsets[:-1, 1] += np.minimum(gaps, blanks_behind[np.asarray(ids[:-1], np.int64)])
    ends = np.maximum.accumulate(offsets[:, 1])
    reached = np.concatenate([np.zeros(min(1, len(ends)), dtype=np.int32), ends[:-1]])
    starts = np.minimum.accumulate(np.minimum(offsets[:, 0], reached)[::-1])[::-1]
    return _Encoded(np.fromiter(ids, np.int32, len(ids)), starts, ends)


def _nothing(why: str) -> RowError:
    return RowError(f"trains nothing: {why}", Kind.TRAINS_NOTHING)
