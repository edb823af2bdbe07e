"""file:///folder and pvc://claim/path: a folder of this machine, or a mounted claim."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.outcome import Reason
from finetune_trainer.disk import is_of_disk
from finetune_trainer.errors import RunError
from finetune_trainer.storage.store import Entry, ObjectMissingError


class LocalStore:
    """Files below one folder. A file appears whole, by renaming a hidden one."""

    revision = ""

    def __init__(self, uri: str, root: Path, mount: Path | None = None) -> None:
        self.uri = uri
        self._root = root
        self._mount = mount
        if ".." in root.parts:
            raise RunError(Reason.INVALID_CONFIGURATION, f"'{uri}' contains '..'", "Write the path without it.")

    def list(self, prefix: str = "", limit: int | None = None) -> list[Entry]:
        """See Store."""
        with self._errors(prefix):
            found = [
                Entry(file.relative_to(self._root).as_posix(), file.stat().st_size, str(file.stat().st_mtime_ns))
                for file in self._root.rglob("*")
                if file.is_file() and not _unfinished(file)
            ]
        return sorted((e for e in found if e.path.startswith(prefix)), key=lambda entry: entry.path)[:limit]

    def download(self, path: str, target: Path, on_bytes: Callable[[int], None] | None = None) -> None:
        """See Store."""
        with self._errors(path):
            _copy(self._root / path, target)
        if on_bytes:
            on_bytes(target.stat().st_size)

    def upload(self, source: Path, path: str) -> None:
        """See Store."""
        with self._errors(path, writing=True):
            _copy(source, self._root / path)

    def read(self, path: str) -> bytes:
        """See Store."""
        with self._errors(path):
            return (self._root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """See Store."""
        with self._errors(path, writing=True), _replacing(self._root / path) as part:
            part.write_bytes(data)

    def sha256(self, path: str) -> str:
        """See Store."""
        with self._errors(path), (self._root / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def delete(self, path: str) -> None:
        """See Store; folders that get empty go too."""
        with self._errors(path):
            file = self._root / path
            file.unlink(missing_ok=True)
            for folder in file.parents:
                if folder == self._root or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()

    def exists(self, path: str) -> bool:
        """See Store."""
        with self._errors(path):
            return (self._root / path).is_file()

    def abort_unfinished(self, ours: Callable[[str], bool]) -> int:
        """See Store."""
        with self._errors(""):
            halves = [file for file in self._root.rglob(".*.part") if ours(file.relative_to(self._root).as_posix())]
            for file in halves:
                file.unlink(missing_ok=True)
        return len(halves)

    @contextmanager
    def _errors(self, path: str, *, writing: bool = False) -> Iterator[None]:
        uri = f"{self.uri}/{path}".rstrip("/")
        if self._mount and not self._mount.is_dir():
            raise RunError(Reason.STORAGE_DENIED, f"the claim of {uri} is not mounted at {self._mount}")
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            if not writing:
                raise ObjectMissingError(uri) from error
            raise RunError(Reason.STORAGE_UNAVAILABLE, f"{uri} cannot be written: {error.strerror}") from error
        except PermissionError as error:
            message = f"user {os.getuid()} may not use {uri}: {error.strerror}"
            raise RunError(Reason.STORAGE_DENIED, message, "Give this user access to the folder.") from error
        except OSError as error:
            if is_of_disk(error) and not writing:
                raise  # the disk that is written to is this machine's own
            raise RunError(Reason.STORAGE_UNAVAILABLE, f"{uri} cannot be used: {error.strerror}") from error


def _unfinished(file: Path) -> bool:
    return file.name.startswith(".") and file.name.endswith(".part")


def _copy(source: Path, target: Path) -> None:
    with _replacing(target) as part:
        shutil.copyfile(source, part)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A hidden file to write, which becomes `target` when it is whole and on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    yield part
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
