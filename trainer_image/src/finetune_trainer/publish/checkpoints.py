"""Checkpoints of one job in storage, below `.finetune/<uid>/checkpoints/step-00000100/`, the manifest last."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from finetune_trainer.publish.manifest import MANIFEST, upload_folder
from finetune_trainer.storage import ObjectMissingError, Store


class _BrokenError(Exception):
    """A checkpoint that is not whole; the text says what is wrong."""


class CheckpointStore:
    """The checkpoints of one job. Touches nothing outside its own prefix."""

    def __init__(self, store: Store, uid: str, say: Callable[[str], None] = print) -> None:
        self._store = store
        self._prefix = f".finetune/{uid}/checkpoints/"
        self._say = say
        self._whole: set[int] = set()  # read back by this object, and not changed by it since

    def save(self, folder: Path, step: int) -> None:
        """Upload a checkpoint; it counts once its manifest is there, which is written last."""
        self._whole.discard(step)
        upload_folder(folder, self._store, self._base(step), {"step": step}, lambda _: None)
        self._whole.add(step)
        self._say(f"Saved the checkpoint of step {step} in {self._store.uri}.")

    def restore_newest(self, target: Path) -> Path | None:
        """Download the newest checkpoint that is whole into `target/checkpoint-<step>`; None when there is none.

        A broken one is passed over with a sentence.
        """
        for step in self._complete_steps():
            staging = target / ".restoring"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            try:
                self._download(step, staging)
            except _BrokenError as error:
                self._say(f"Passed over the checkpoint of step {step}: {error}.")
                shutil.rmtree(staging)
                continue
            self._whole.add(step)
            final = target / f"checkpoint-{step}"
            shutil.rmtree(final, ignore_errors=True)
            staging.rename(final)
            return final
        return None

    def prune(self, keep: int) -> None:
        """Delete all but the `keep` newest whole checkpoints, and what older saves left unfinished.

        What is not whole is never counted, so the newest whole one always stays.
        """
        kept = [step for step in self._complete_steps() if self._is_whole(step)][: max(1, keep)]
        if kept:
            self._delete([step for step in self._steps() if step < kept[0] and step not in kept])

    def clear(self) -> None:
        """Delete all checkpoints, for a run whose result is published."""
        self._delete(list(self._steps()))

    def _base(self, step: int) -> str:
        return f"{self._prefix}step-{step:08d}/"

    def _steps(self) -> dict[int, list[str]]:
        """The objects of each step, whole or not."""
        found: dict[int, list[str]] = {}
        for entry in self._store.list(self._prefix):
            match = re.match(r"step-(\d{8,})/", entry.path.removeprefix(self._prefix))
            if match:
                found.setdefault(int(match[1]), []).append(entry.path)
        return found

    def _complete_steps(self) -> list[int]:
        """Steps that have a manifest, newest first."""
        return sorted((s for s, paths in self._steps().items() if self._base(s) + MANIFEST in paths), reverse=True)

    def _delete(self, steps: list[int]) -> None:
        """Delete manifests first, so that a half deleted checkpoint does not count."""
        objects = self._steps()
        for step in sorted(steps):
            self._whole.discard(step)
            manifest = self._base(step) + MANIFEST
            for path in sorted(objects.get(step, []), key=lambda path: path != manifest):
                self._store.delete(path)

    def _is_whole(self, step: int) -> bool:
        if step in self._whole:
            return True
        try:
            for path, digest in self._manifest(step).items():
                if self._store.sha256(self._base(step) + path) != digest:
                    return False
        except (_BrokenError, ObjectMissingError):
            return False
        self._whole.add(step)
        return True

    def _download(self, step: int, folder: Path) -> None:
        for path, digest in self._manifest(step).items():
            try:
                self._store.download(self._base(step) + path, folder / path)
            except ObjectMissingError as error:
                raise _BrokenError(f"{path} is missing") from error
            with (folder / path).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != digest:
                raise _BrokenError(f"{path} has sha256 {found} instead of {digest}")

    def _manifest(self, step: int) -> dict[str, str]:
        """Digests by path, relative to the step's folder."""
        try:
            files = json.loads(self._store.read(self._base(step) + MANIFEST))["files"]
            digests = {str(path): str(facts["sha256"]) for path, facts in files.items()}
        except ObjectMissingError as error:
            raise _BrokenError(f"{MANIFEST} is missing") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _BrokenError(f"{MANIFEST} cannot be read") from error
        for path in digests:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise _BrokenError(f"{MANIFEST} names '{path}', which is outside")
        if not digests:
            raise _BrokenError(f"{MANIFEST} names no file")
        return digests
