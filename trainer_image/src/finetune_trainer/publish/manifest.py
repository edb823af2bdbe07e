"""Publish a folder: every file, each read back and compared, manifest.json last."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune_api.outcome import Artifact, Reason
from finetune_trainer.errors import RunError
from finetune_trainer.storage import ObjectMissingError, Store

MANIFEST = "manifest.json"
VERSION = "finetune.dev/manifest/v1"
Say = Callable[[str], None]
Verify = Callable[[dict[str, str]], None]


@dataclass(frozen=True)
class Uploaded:
    """What a manifest stands for."""

    manifest_sha256: str
    bytes: int
    files: int


def publish(
    folder: Path, store: Store, facts: dict[str, object], say: Say, verify: Verify = lambda _: None
) -> Artifact:
    """Upload all files of `folder`, read them back, and write manifest.json when every one of them is right.

    An older manifest.json at the target is deleted first, so that a half overwrite is never taken as complete; and
    then what it names and the new one does not: a chat template or a merged model of another adapter.

    Args:
        folder: Holds the files; sub-folders keep their paths.
        store: The target.
        facts: Written into the manifest beside `files`; JSON values.
        say: Takes a sentence about each step.
        verify: Called with the sha256 of every file by its path, when all are there and the manifest is not; what it
            raises leaves none.

    Raises:
        RunError: VerificationFailed, naming the file and both digests, or what the storage says.
    """
    done = upload_folder(folder, store, "", facts, say, verify)
    return Artifact(uri=store.uri, manifest_sha256=done.manifest_sha256, bytes=done.bytes, files=done.files)


def upload_folder(
    folder: Path, store: Store, base: str, facts: dict[str, object], say: Say, verify: Verify = lambda _: None
) -> Uploaded:
    """Upload a folder to `base` (empty, or with a slash at its end) by the law of this module."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.relative_to(folder).as_posix() != MANIFEST)
    _clear(store, base, {file.relative_to(folder).as_posix() for file in files}, say)
    described: dict[str, dict[str, object]] = {}
    for file in files:
        path = file.relative_to(folder).as_posix()
        size = file.stat().st_size
        say(f"uploading {path} ({size / 1e6:.1f} MB)")
        described[path] = {"size": size, "sha256": _upload(file, store, base + path)}
    verify({path: str(file["sha256"]) for path, file in described.items()})
    text = json.dumps({"version": VERSION, **facts, "files": described}, indent=2, sort_keys=True, allow_nan=False)
    data = f"{text}\n".encode()
    digest = hashlib.sha256(data).hexdigest()
    store.write(base + MANIFEST, data)
    try:
        _compare(store, base + MANIFEST, digest)
    except RunError:
        store.delete(base + MANIFEST)
        raise
    return Uploaded(digest, sum(file.stat().st_size for file in files), len(files))


def _clear(store: Store, base: str, kept: set[str], say: Say) -> None:
    """Delete an older manifest, and what only it names; what no manifest names is somebody else's."""
    try:
        older = read_digests(store.read(base + MANIFEST))
    except ObjectMissingError:
        return
    except BrokenFolderError:
        older = {}
    store.delete(base + MANIFEST)
    for path in sorted(older.keys() - kept):
        say(f"deleting {path}, which was of the result before")
        store.delete(base + path)


class BrokenFolderError(Exception):
    """What a manifest names is not whole; the text says what is wrong."""


def restore_folder(store: Store, base: str, target: Path, say: Say) -> None:
    """Download a folder that `upload_folder` has written to `base`, and compare every file with the manifest.

    Raises:
        ObjectMissingError: There is no manifest.
        BrokenFolderError: A file is missing or differs, or the manifest cannot be read.
    """
    restore_files(store, base, read_digests(store.read(base + MANIFEST)), target, say)


def restore_files(store: Store, base: str, digests: dict[str, str], target: Path, say: Say) -> None:
    """Download files below `base`, and compare each with its digest.

    Raises:
        BrokenFolderError: A file is missing or differs.
    """
    for path, digest in digests.items():
        say(f"downloading {path}")
        try:
            found = _fetch(store, base + path, target / path)
            if found != digest:  # once more: it may have been changed on its way only
                found = _fetch(store, base + path, target / path)
        except ObjectMissingError as error:
            raise BrokenFolderError(f"{path} is missing") from error
        if found != digest:
            raise BrokenFolderError(f"{path} has sha256 {found} instead of {digest}")


def _fetch(store: Store, path: str, target: Path) -> str:
    """Download one file and return its digest."""
    store.download(path, target)
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_digests(manifest: bytes) -> dict[str, str]:
    """The sha256 of every file that a manifest names, by path.

    Raises:
        BrokenFolderError: It cannot be read, names nothing, or a path outside of its folder.
    """
    try:
        files = json.loads(manifest)["files"]
        found = {str(path): str(facts["sha256"]) for path, facts in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenFolderError(f"{MANIFEST} cannot be read") from error
    for path in found:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise BrokenFolderError(f"{MANIFEST} names '{path}', which is outside")
    if not found:
        raise BrokenFolderError(f"{MANIFEST} names no file")
    return found


def _upload(file: Path, store: Store, path: str) -> str:
    """Upload one file, read it back, and return its digest."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    store.upload(file, path)
    _compare(store, path, digest)
    return digest


def _compare(store: Store, path: str, digest: str) -> None:
    try:
        found = store.sha256(path)
    except ObjectMissingError:
        found = "nothing"
    if found != digest:
        raise RunError(
            Reason.VERIFICATION_FAILED,
            f"{store.uri}/{path} was uploaded with sha256 {digest} and read back with {found}",
            "The storage changed the object, or somebody else writes to the same prefix.",
        )
