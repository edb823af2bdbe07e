"""Remembers what is already here, so that a second run on the same machine downloads nothing again."""

import json
import threading
from pathlib import Path

from finetune_trainer.storage.store import Entry


class Kept:
    """The complete files of one folder, with the version each had in storage.

    Equal sizes alone say nothing: two versions of a model have files of the same size.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder = folder
        self._file = folder / ".fetched.json"
        self._uri = uri
        self._lock = threading.Lock()
        self._versions = self._load()

    def has(self, entry: Entry) -> bool:
        """Tell whether this very version is here, complete."""
        file = self._folder / entry.path
        known = entry.version != "" and self._versions.get(entry.path) == entry.version
        return known and file.is_file() and file.stat().st_size == entry.size

    def add(self, entry: Entry) -> None:
        """Remember a file that was downloaded and checked."""
        with self._lock:
            self._versions[entry.path] = entry.version
            self._file.write_text(json.dumps({"uri": self._uri, "versions": self._versions}, sort_keys=True))

    def remove_others(self, wanted: set[str]) -> None:
        """Delete files of another model and halves that a killed run left behind."""
        for file in self._folder.iterdir():
            if file.is_file() and file.name not in wanted and file != self._file:
                file.unlink()

    def _load(self) -> dict[str, str]:
        try:
            known = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return dict(known["versions"]) if known.get("uri") == self._uri else {}
