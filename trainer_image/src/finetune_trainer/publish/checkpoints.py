"""Checkpoints of one job in storage, below `.finetune/<uid>/checkpoints/step-00000100/`, the manifest last."""

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.publish.manifest import MANIFEST, BrokenFolderError, read_digests, restore_files, upload_folder
from finetune_trainer.storage import ObjectMissingError, Store

NEEDED = ("*.safetensors", "optimizer.pt", "scheduler.pt", "rng_state*.pth", "trainer_state.json")
"""Without any of these a run would not go on but start anew in silence: the Trainer only mentions what it misses."""


@dataclass(frozen=True)
class _Manifest:
    """What makes a checkpoint count."""

    digests: dict[str, str]
    """sha256 by path, relative to the step's folder."""
    good: bool
    """False where the loss was going up already."""


class CheckpointStore:
    """The checkpoints of one job. Touches nothing outside its own prefix."""

    def __init__(self, store: Store, uid: str, say: Callable[[str], None] = print) -> None:
        self._store = store
        self._prefix = f".finetune/{uid}/checkpoints/"
        self._say = say
        self._whole: dict[int, _Manifest] = {}  # read back by this object, and not changed by it since

    @property
    def uri(self) -> str:
        """Where they are, for people."""
        return f"{self._store.uri}/{self._prefix}".rstrip("/")

    def save(
        self, folder: Path, step: int, *, good: bool = True, before_each: Callable[[str], None] = lambda _: None
    ) -> None:
        """Upload a checkpoint; it counts once its manifest is there, which is written last.

        One that is not good is no reason to prune the newest good one. `before_each` is called before each file; what
        it raises ends the upload.

        Raises:
            RunError: InternalError for a folder from which no run could go on, or what the storage says.
        """
        check_resumable(folder, step)
        self._whole.pop(step, None)
        upload_folder(folder, self._store, self._base(step), {"step": step, "good": good}, before_each)
        self._whole[step] = self._manifest(step)
        self._say(f"Saved the checkpoint of step {step} in {self._store.uri}.")

    def newest(self) -> int:
        """The step of the newest checkpoint that has a manifest, 0 for none; its files are not looked at."""
        return next(iter(self._complete_steps()), 0)

    def restore_newest(self, target: Path) -> Path | None:
        """Download the newest checkpoint that is whole into `target/checkpoint-<step>`; None when there is none.

        A broken one is passed over with a sentence.
        """
        for step in self._complete_steps():
            try:
                return self.restore(step, target)
            except BrokenFolderError as error:
                self._say(f"Passed over the checkpoint of step {step}: {error}.")
        return None

    def restore(self, step: int, target: Path) -> Path:
        """Download that checkpoint into `target/checkpoint-<step>`.

        Raises:
            BrokenFolderError: It is not whole; nothing of it is left in `target`.
        """
        staging = target / ".restoring"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            restore_files(self._store, self._base(step), self._manifest(step).digests, staging, lambda _: None)
        except BrokenFolderError:
            shutil.rmtree(staging)
            raise
        final = target / f"checkpoint-{step}"
        shutil.rmtree(final, ignore_errors=True)
        staging.rename(final)
        return final

    def prune(self, keep: int) -> None:
        """Delete all but the `keep` newest whole checkpoints, and what older saves left unfinished.

        What is not whole is never counted, so the newest whole one always stays; so does the newest good one.
        """
        whole = {step: found for step in self._complete_steps() if (found := self._whole_manifest(step))}
        kept = list(whole)[: max(1, keep)]
        kept += [step for step, manifest in whole.items() if manifest.good][:1]
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
            self._whole.pop(step, None)
            manifest = self._base(step) + MANIFEST
            for path in sorted(objects.get(step, []), key=lambda path: path != manifest):
                self._store.delete(path)

    def _whole_manifest(self, step: int) -> _Manifest | None:
        """The manifest, once every file was read back and is what it says; None for a checkpoint that is not whole."""
        if step not in self._whole:
            try:
                manifest = self._manifest(step)
                for path, digest in manifest.digests.items():
                    if self._store.sha256(self._base(step) + path) != digest:
                        return None
            except (BrokenFolderError, ObjectMissingError):
                return None
            self._whole[step] = manifest
        return self._whole[step]

    def _manifest(self, step: int) -> _Manifest:
        try:
            text = self._store.read(self._base(step) + MANIFEST)
        except ObjectMissingError as error:
            raise BrokenFolderError(f"{MANIFEST} is missing") from error
        digests = read_digests(text)
        good = json.loads(text).get("good", True) is True
        if lacking := _lacking(digests):
            raise BrokenFolderError(f"{MANIFEST} names no {lacking[0]}, without which the run would start anew")
        return _Manifest(digests, good)


def check_resumable(folder: Path, step: int) -> None:
    """Refuse a checkpoint from which a run would start anew in silence.

    Raises:
        RunError: InternalError, naming what it lacks.
    """
    if lacking := _lacking(file.name for file in folder.rglob("*")):
        message = f"the checkpoint of step {step} has no {lacking[0]}, so no run could go on from it"
        raise RunError(Reason.INTERNAL_ERROR, message, "This is a bug of the trainer.")


def _lacking(paths: Iterable[str]) -> list[str]:
    """The patterns of NEEDED that no file meets."""
    names = [PurePosixPath(path).name for path in paths]
    return [pattern for pattern in NEEDED if not any(fnmatch(name, pattern) for name in names)]
