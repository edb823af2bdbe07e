"""What every storage can do, and which class serves which URI."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Storage
from finetune_trainer.errors import RunError

PVC_ROOT = Path("/pvc")
"""The operator mounts claim `c` at `/pvc/c`."""


class ObjectMissingError(Exception):
    """There is no such object; who asked for it knows whether that is a missing model, dataset or nothing special.

    Its text is the object's URI.
    """


@dataclass(frozen=True)
class Entry:
    """One object below a store's URI."""

    path: str
    """Relative to the store's URI, with `/`."""
    size: int
    """In bytes."""
    version: str = ""
    """Changes when the content does: an ETag, a blob id, a time of change."""
    sha256: str = ""
    """Where the listing tells it; empty otherwise."""


class Store(Protocol):
    """The objects below one URI. Paths are relative to it.

    Every method raises RunError for a missing bucket, refused access and a storage that does not answer; what asks
    for one object raises ObjectMissingError when it is not there.
    """

    @property
    def uri(self) -> str:
        """Where this store is, without a slash at the end."""

    @property
    def revision(self) -> str:
        """The commit that a model hub resolved; empty elsewhere."""

    def list(self, prefix: str = "", limit: int | None = None) -> list[Entry]:
        """The objects whose path starts with `prefix`, sorted, at most `limit`; none is no error."""

    def download(self, path: str, target: Path, on_bytes: Callable[[int], None] | None = None) -> None:
        """Write an object to `target`, which appears only when complete; `on_bytes` hears of each piece's size.

        `on_bytes` may be called from several threads.
        """

    def upload(self, source: Path, path: str) -> None:
        """Write a file; readers see the old object or the whole new one."""

    def read(self, path: str) -> bytes:
        """Return a small object."""

    def write(self, path: str, data: bytes) -> None:
        """Write a small object."""

    def sha256(self, path: str) -> str:
        """Read an object back and return the hex digest of its content."""

    def delete(self, path: str) -> None:
        """Remove an object; a missing one is no error."""

    def exists(self, path: str) -> bool:
        """Tell whether there is such an object."""

    def abort_unfinished(self, ours: Callable[[str], bool]) -> int:
        """Give up uploads that somebody began and did not end, where `ours` holds for the path; return how many."""


def open_store(uri: str, storage: Storage, revision: str | None = None) -> Store:
    """Return the store of a URI; touches no network. `revision` counts for hf:// only."""
    uri = uri.rstrip("/")
    scheme, _, rest = uri.partition("://")
    if scheme == "s3":
        from finetune_trainer.storage.s3 import S3Store  # noqa: PLC0415 - boto3 only where it is needed

        return S3Store(rest, storage)
    if scheme == "hf":
        from finetune_trainer.storage.hub import HubStore  # noqa: PLC0415 - huggingface_hub likewise

        return HubStore(rest, revision)
    if scheme == "file":
        from finetune_trainer.storage.local import LocalStore  # noqa: PLC0415

        return LocalStore(uri, Path(rest))
    if scheme == "pvc":
        from finetune_trainer.storage.local import LocalStore  # noqa: PLC0415

        return LocalStore(uri, PVC_ROOT / rest, mount=PVC_ROOT / rest.partition("/")[0])
    raise RunError(
        Reason.INVALID_CONFIGURATION,
        f"'{uri}' has no scheme that is known here",
        "Use s3://bucket/path, hf://owner/name, pvc://claim/path or file:///path.",
    )
