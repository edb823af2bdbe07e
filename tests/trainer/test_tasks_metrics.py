"""Metrics are those of their definitions: of confusion counts, and of answers as SQuAD compares them."""

import numpy as np
import pytest
import torch

from finetune_trainer.data.tokens import IGNORED
from finetune_trainer.tasks.answers import best_span, exact_match, token_f1
from finetune_trainer.tasks.labels import confusion_scores, confusion_sums, macro_f1

HAND = [
    # counts[true][predicted], accuracy and macro F1 worked out on paper
    ([[3, 1], [2, 4]], 7 / 10, (2 * 3 / (4 + 5) + 2 * 4 / (6 + 5)) / 2),
    ([[5, 0, 0], [0, 0, 0], [2, 0, 3]], 8 / 10, (2 * 5 / 12 + 2 * 3 / 8) / 2),  # the second label never occurs
    ([[3, 0, 1], [0, 2, 0], [0, 0, 0]], 5 / 6, (2 * 3 / 7 + 1 + 0) / 3),  # the third never occurs, and is predicted
    ([[0, 4], [0, 6]], 6 / 10, (0 + 2 * 6 / 16) / 2),  # the first label is never predicted
    ([[0, 0], [3, 0]], 0.0, 0.0),
]


@pytest.mark.parametrize(("counts", "accuracy", "f1"), HAND)
def test_metrics_of_counts(counts: list[list[int]], accuracy: float, f1: float) -> None:
    """Logits that predict what the counts say, in two batches, and items without a label between them."""
    classes = len(counts)
    pairs = [(t, p) for t, line in enumerate(counts) for p, count in enumerate(line) for _ in range(count)]
    targets = torch.tensor([true for true, _ in pairs] + [IGNORED])
    logits = torch.nn.functional.one_hot(torch.tensor([told for _, told in pairs] + [0]), classes).float()
    sums = confusion_sums(logits[:3], targets[:3]) + confusion_sums(logits[3:], targets[3:])
    scores = confusion_scores(sums, len(pairs), [f"label {number}" for number in range(classes)])

    assert scores.metrics == pytest.approx({"accuracy": accuracy, "macroF1": f1})
    assert macro_f1(np.array(counts)) == pytest.approx(f1)
    told = [
        [scores.confusion.get(f"label {t}", {}).get(f"label {p}", 0) for p in range(classes)] for t in range(classes)
    ]
    assert told == counts
    wrong = sum(true != predicted for true, predicted in pairs)
    right = len(pairs) - wrong
    best, other = -np.log(np.e / (np.e + classes - 1)), -np.log(1 / (np.e + classes - 1))
    assert scores.loss == pytest.approx((right * best + wrong * other) / len(pairs), rel=1e-5)


@pytest.mark.parametrize(
    ("told", "answer", "exact", "f1"),
    [
        ("The Cat.", "a cat", 1.0, 1.0),
        ("black cat", "the black dog", 0.0, 0.5),
        ("cat cat", "cat", 0.0, 2 / 3),
        ("cat cat dog", "cat cat", 0.0, 4 / 5),
        ("dog", "cat", 0.0, 0.0),
        ("the", "", 1.0, 1.0),
        ("another", "other", 0.0, 0.0),
    ],
)
def test_answers_are_compared_as_squad_does(told: str, answer: str, exact: float, f1: float) -> None:
    """Case, punctuation and articles do not count; words do as often as both have them."""
    assert (exact_match(told, answer), token_f1(told, answer)) == (exact, pytest.approx(f1))


def test_the_likeliest_span_is_one() -> None:
    """It ends where it starts or later, within the context, in 30 tokens; the likeliest of all such pairs."""
    random = np.random.default_rng(1)
    context = "".join(chr(97 + number % 26) for number in range(40))
    spans = [None, None, *((n, n + 1) for n in range(40)), None]
    for _ in range(50):
        starts, ends = random.normal(size=(2, len(spans))).astype(np.float32)
        starts[0], ends[1], ends[-1] = 9, 9, 9  # not of the context
        tried = {
            (a, b): starts[a + 2] + ends[b + 2] for a in range(40) for b in range(40) if a <= b < a + 30
        }  # fmt: skip
        first, last = max(tried, key=lambda pair: tried[pair])
        score, text = best_span(starts, ends, spans, context)
        assert (score, text) == (pytest.approx(tried[first, last]), context[first : last + 1])
    for tokens, told in ((30, context[:30]), (31, context[30])):  # one token more than an answer may have
        starts, ends = np.zeros((2, len(spans)), np.float32)
        starts[2], ends[2 + tokens - 1] = 1, 2
        starts[2 + tokens - 1] = 0.5
        assert best_span(starts, ends, spans, context)[1] == told
