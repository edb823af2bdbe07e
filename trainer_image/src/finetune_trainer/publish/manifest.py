"""Publish a folder: every file, each read back and compared, manifest.json last."""

from collections.abc import Callable
from pathlib import Path

from finetune_api.outcome import Artifact
from finetune_trainer.storage import Store


def publish(folder: Path, store: Store, facts: dict[str, object], say: Callable[[str], None]) -> Artifact:
    """Upload all files of `folder`, read them back, and write manifest.json when every one of them is right.

    An older manifest.json at the target is deleted first, so that a half overwrite is never taken as complete.

    Args:
        folder: Holds the files; sub-folders keep their paths.
        store: The target.
        facts: Written into the manifest beside `files`; JSON values.
        say: Takes a sentence about each step.

    Raises:
        RunError: VerificationFailed, naming the file and both digests, or what the storage says.
    """
    raise NotImplementedError
