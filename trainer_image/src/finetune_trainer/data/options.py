"""What decides, beside the rows themselves, what is trained."""

from dataclasses import dataclass

from finetune_api.v1alpha1 import Dataset


@dataclass(frozen=True)
class Options:
    """How the rows of a source are read."""

    dataset: Dataset
    max_length: int
    """Longest row in tokens."""
    trains: bool = True
    """False for held-out rows: from them nobody learns when to stop."""
