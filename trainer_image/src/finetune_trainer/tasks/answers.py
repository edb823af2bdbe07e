"""The text of a predicted span, and how it compares with an answer: as SQuAD's own evaluation compares."""

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LONGEST = 30
"""Tokens of a predicted answer, as in the scripts that come with SQuAD."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def best_span(
    starts: NDArray[np.float32], ends: NDArray[np.float32], spans: Sequence[Sequence[int] | None], context: str
) -> tuple[float, str]:
    """The text between the first and the last token that are likeliest together, and the sum of their logits.

    Args:
        starts: Logits of being the first token, [tokens].
        ends: Logits of being the last token, [tokens].
        spans: For each token of the context its characters [start, end), for others None.
        context: The text.
    """
    places = np.array([place for place, span in enumerate(spans) if span is not None])
    together = starts[places][:, None] + ends[places][None]
    allowed = np.triu(np.ones_like(together, dtype=bool)) & ~np.triu(np.ones_like(together, dtype=bool), LONGEST)
    first, last = np.unravel_index(np.where(allowed, together, -np.inf).argmax(), together.shape)
    begin, end = spans[int(places[first])], spans[int(places[last])]
    return float(together[first, last]), context[begin[0] : end[1]] if begin and end else ""


@dataclass(frozen=True)
class Told:
    """What a model says of one window, and the answers that it is compared with."""

    score: float
    """The sum of two logits, which windows of one question are compared by."""
    exact: float
    f1: float

    @staticmethod
    def of(details: bytes, starts: NDArray[np.float32], ends: NDArray[np.float32]) -> "Told":
        """Compare the likeliest span with each answer; the best of them counts, as SQuAD has it."""
        window = json.loads(details)
        score, text = best_span(starts, ends, window["spans"], window["context"])
        answers = window["answers"]
        return Told(score, max(exact_match(text, a) for a in answers), max(token_f1(text, a) for a in answers))


def exact_match(told: str, answer: str) -> float:
    """1 where both are the same words, else 0."""
    return float(_words(told) == _words(answer))


def token_f1(told: str, answer: str) -> float:
    """F1 of the words that both have in common; of two without words 1."""
    one, other = _words(told), _words(answer)
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def _words(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
