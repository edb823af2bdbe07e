"""Checkpoints of one job in storage, below `.finetune/<uid>/checkpoints/step-00000100/`, the manifest last."""

from collections.abc import Callable
from pathlib import Path

from finetune_trainer.storage import Store


class CheckpointStore:
    """The checkpoints of one job. Touches nothing outside its own prefix."""

    def __init__(self, store: Store, uid: str, say: Callable[[str], None] = print) -> None:
        self._store = store
        self._prefix = f".finetune/{uid}/checkpoints/"
        self._say = say

    def save(self, folder: Path, step: int) -> None:
        """Upload a checkpoint; it counts once its manifest is there, which is written last."""
        raise NotImplementedError

    def restore_newest(self, target: Path) -> Path | None:
        """Download the newest checkpoint that is whole into `target/checkpoint-<step>`; None when there is none.

        A broken one is passed over with a sentence.
        """
        raise NotImplementedError

    def prune(self, keep: int) -> None:
        """Delete all but the `keep` newest whole checkpoints; never the newest whole one."""
        raise NotImplementedError

    def clear(self) -> None:
        """Delete all checkpoints, for a run whose result is published."""
        raise NotImplementedError
