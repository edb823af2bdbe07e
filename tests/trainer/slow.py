"""A real store behind a door."""

import threading
from pathlib import Path
from typing import Any

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.storage import Store


class Slow:
    """A store that lets no upload pass while `closed`, and refuses as many as `failures` says."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.uri = store.uri
        self.open = threading.Event()
        self.begun = threading.Event()
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def upload(self, source: Path, path: str) -> None:
        """Wait, fail, or do it."""
        self.begun.set()
        assert self.open.wait(60)
        if self.failures:
            self.failures -= 1
            raise RunError(Reason.STORAGE_UNAVAILABLE, "the server answered 503")
        self._store.upload(source, path)
