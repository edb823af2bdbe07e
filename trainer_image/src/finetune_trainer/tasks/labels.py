"""What both classifications share: a label for each item, counted by true and predicted label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from finetune_trainer.data.tokens import IGNORED
from finetune_trainer.tasks.task import Sums
from finetune_trainer.training.scores import Scores


def label_settings(labels: Sequence[str]) -> dict[str, Any]:
    """The names of the labels as transformers keeps them in a config."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: number for number, name in enumerate(labels)},
    }


def nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the negative log-likelihoods of the targets, those that are IGNORED left out.

    Args:
        logits: Float32 [..., classes].
        targets: Int64 [...].
    """
    classes = logits.shape[-1]
    return functional.cross_entropy(
        logits.reshape(-1, classes), targets.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )


def confusion_sums(logits: torch.Tensor, targets: torch.Tensor) -> Sums:
    """The loss, and how often each label was taken for each, row by row: `[NLL, counts[0, 0], counts[0, 1], ...]`."""
    classes, kept = logits.shape[-1], targets != IGNORED
    pairs = targets[kept] * classes + logits.argmax(dim=-1)[kept]
    counts = torch.bincount(pairs, minlength=classes * classes)
    return np.concatenate([[float(nll(logits, targets))], counts.cpu().numpy()])


def confusion_scores(sums: Sums, items: int, labels: Sequence[str]) -> Scores:
    """Mean loss per item, accuracy, macro F1, and the counts by name."""
    counts = np.resize(sums[1:], (len(labels), len(labels))).astype(np.int64)
    named = {
        true: {told: int(count) for told, count in zip(labels, line, strict=True) if count}
        for true, line in zip(labels, counts, strict=True)
        if line.any()
    }
    metrics = {"accuracy": float(np.trace(counts) / items), "macroF1": macro_f1(counts)}
    return Scores(float(sums[0]) / items, metrics, named)


def macro_f1(counts: NDArray[np.int64]) -> float:
    """The mean of the labels' F1; a label counts that occurs, or is predicted.

    Args:
        counts: [true, predicted].
    """
    true, told, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    seen = true + told > 0
    return float((2 * right[seen] / (true + told)[seen]).mean())
