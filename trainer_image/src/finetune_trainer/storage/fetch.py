"""Bring the base model and the dataset here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_api.v1alpha1 import Model, Storage

Say = Callable[[str], None]
"""Takes one sentence for people, for instance `downloading model.safetensors: 120 of 269 MB`."""


@dataclass(frozen=True)
class FetchedFile:
    """One downloaded file."""

    path: Path
    sha256: str


def fetch_model(model: Model, storage: Storage, target: Path, say: Say) -> str:
    """Download the safe files of a model into `target`; return the hub's commit, or an empty string elsewhere.

    Files that are already complete in `target` are kept.

    Raises:
        RunError: ModelNotFound, UnsafeModel, GatedModel, VerificationFailed, or what the storage says.
    """
    raise NotImplementedError


def fetch_file(uri: str, storage: Storage, target: Path, say: Say) -> FetchedFile:
    """Download one file to `target`.

    Raises:
        RunError: DatasetNotFound, or what the storage says.
    """
    raise NotImplementedError
