"""Prepared rows in storage: `.finetune/<uid>/prepared/<source>/`, with a manifest that is written last.

Whoever trains takes them from here, on whatever node, instead of reading the dataset again.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from finetune_trainer.errors import RunError
from finetune_trainer.publish.manifest import MANIFEST, BrokenFolderError, restore_folder, upload_folder
from finetune_trainer.storage import ObjectMissingError, Store

Say = Callable[[str], None]


class StoredRows:
    """The prepared rows of one job. Touches nothing outside its own prefix."""

    def __init__(self, store: Store, uid: str, say: Say) -> None:
        self._store = store
        self._base = f".finetune/{uid}/prepared/"
        self._say = say

    def keys(self) -> list[str]:
        """The keys of what is there (see `data.key`); empty where nothing whole is."""
        try:
            keys = json.loads(self._store.read(self._base + MANIFEST))["keys"]
        except (ObjectMissingError, ValueError, KeyError, TypeError):
            return []
        return [str(key) for key in keys] if isinstance(keys, list) else []

    def save(self, folders: list[Path], keys: list[str], staging: Path) -> None:
        """Upload the shards of each source, read back and compared; the manifest comes last."""
        shutil.rmtree(staging, ignore_errors=True)
        for number, folder in enumerate(folders):
            _link(folder, staging / str(number))
        upload_folder(staging, self._store, self._base, {"keys": keys}, self._say)
        shutil.rmtree(staging)

    def restore(self, folders: list[Path], staging: Path) -> bool:
        """Download the shards of each source; False where there are none, or none that are whole."""
        shutil.rmtree(staging, ignore_errors=True)
        try:
            restore_folder(self._store, self._base, staging, self._say)
        except ObjectMissingError:
            return False
        except BrokenFolderError as error:
            self._say(f"Passed over the prepared rows in {self._store.uri}: {error}.")
            return False
        for number, folder in enumerate(folders):
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            (staging / str(number)).rename(folder)
        shutil.rmtree(staging)
        return True

    def clear(self) -> None:
        """Delete them, for a run whose result is published; what storage refuses stays, with a sentence."""
        try:
            for entry in sorted(self._store.list(self._base), key=lambda entry: entry.path != self._base + MANIFEST):
                self._store.delete(entry.path)
        except RunError as error:
            self._say(f"The prepared rows in {self._store.uri} could not be deleted: {error.message}")


def _link(folder: Path, target: Path) -> None:
    """The shards under another name, not a second time; the quarantine has a place of its own."""
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.suffix in (".bin", ".json"):
            (target / file.name).hardlink_to(file)
