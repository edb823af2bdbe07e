"""Keeps a copy in storage of files that grow on this disk: a thread of PID 1. It never decides anything."""

import logging
import shutil
import tempfile
import threading
from pathlib import Path

from finetune_trainer.storage import Store

_log = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
LAST_SECONDS = 60.0
"""For the last round, unless the pod is asked to go."""
HURRY_SECONDS = 5.0


class Mirror:
    """Uploads each file of a folder again once it has changed."""

    def __init__(self, folder: Path, store: Store, base: str) -> None:
        self._folder = folder
        self._store = store
        self._base = base
        self._uploaded: dict[Path, tuple[int, int]] = {}
        self._failed = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        """Begin; what an earlier run left on this disk does not count."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._thread.start()

    def finish(self, *, hurry: bool) -> None:
        """Upload what has changed since the last round, and end."""
        self._over.set()
        self._thread.join(HURRY_SECONDS if hurry else LAST_SECONDS)

    def _run(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self._round()
        self._round()

    def _round(self) -> None:
        try:
            for file in sorted(path for path in self._folder.rglob("*") if path.is_file()):
                self._upload(file)
        except Exception as error:
            if not self._failed:
                _log.warning("The files of %s are not in storage yet, and are tried again: %s", self._folder, error)
            self._failed = True

    def _upload(self, file: Path) -> None:
        """A copy of it: the file itself may grow meanwhile."""
        stat = file.stat()
        seen = stat.st_size, stat.st_mtime_ns
        if self._uploaded.get(file) == seen:
            return
        with tempfile.NamedTemporaryFile() as copy:
            shutil.copyfile(file, copy.name)
            self._store.upload(Path(copy.name), self._base + file.relative_to(self._folder).as_posix())
        self._uploaded[file] = seen
