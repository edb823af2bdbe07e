"""What decides, beside the rows themselves, what is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from finetune_api.v1alpha1 import Dataset, Task


@dataclass(frozen=True)
class Options:
    """How the rows of a source are read."""

    dataset: Dataset
    max_length: int
    """Longest row in tokens."""
    trains: bool = True
    """False for held-out rows: from them nobody learns when to stop."""
    task: Task = field(default_factory=Task)
    labels: Sequence[str] | None = None
    """Those that are known: of the spec, or of the training rows. None: they are found in these rows."""
