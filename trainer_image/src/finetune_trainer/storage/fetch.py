"""Bring the base model and the dataset here: safe files only, whole, and checked."""

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Model, Storage
from finetune_trainer.errors import RunError
from finetune_trainer.storage import choose
from finetune_trainer.storage.kept import Kept
from finetune_trainer.storage.meter import Meter
from finetune_trainer.storage.select import hidden, select
from finetune_trainer.storage.store import Entry, ObjectMissingError, Store, open_store

Say = Callable[[str], None]
"""Takes one sentence for people, for instance `downloading model.safetensors: 120 of 269 MB`."""

_FILES_AT_ONCE = 4
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class FetchedFile:
    """One downloaded file."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class FetchedFiles:
    """The files of one dataset URI."""

    files: dict[str, FetchedFile]
    """By their path below the URI's folder, in the order of these."""
    left_alone: tuple[str, ...] = ()
    """Paths of other files below a prefix."""

    @property
    def sha256(self) -> str:
        """Of one file its own digest; of several, that of their hex digests in order, each with a newline."""
        digests = [file.sha256 for file in self.files.values()]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def pinned(model: Model, storage: Storage) -> Model:
    """The model with the commit that its revision names now; of another storage, as it is.

    A branch may move while a job goes on: whoever works on the job later shall find the same model.

    Raises:
        RunError: ModelNotFound, GatedModel, or what the storage says.
    """
    try:
        commit = open_store(model.uri, storage, model.revision).revision
    except ObjectMissingError as error:
        raise _model_missing(error) from error
    return model.model_copy(update={"revision": commit}) if _COMMIT.fullmatch(commit) else model


def fetch_model(model: Model, storage: Storage, target: Path, say: Say, *, weights: bool = True) -> str:
    """Download the safe files of a model into `target`; return the hub's commit, or an empty string elsewhere.

    Files that are already complete in `target` are kept. Without `weights` the rest still tells whether they are there.

    Raises:
        RunError: ModelNotFound, UnsafeModel, GatedModel, VerificationFailed, or what the storage says.
    """
    store = open_store(model.uri, storage, model.revision)
    try:
        listing = store.list()
        wanted = [e for e in choose.model_files(store.uri, listing) if weights or not e.path.endswith(".safetensors")]
        digests = _digests(store, listing)
        target.mkdir(parents=True, exist_ok=True)
        kept = Kept(target, store.uri)
        kept.remove_others({entry.path for entry in wanted})
        missing = [entry for entry in wanted if not kept.has(entry)]
        meter = Meter(sum(entry.size for entry in missing), say)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            try:
                for done in [pool.submit(_bring, store, entry, target, meter, kept, digests) for entry in missing]:
                    done.result()
            except BaseException:  # an error, or a signal's: what has not begun shall not begin
                pool.shutdown(cancel_futures=True)
                raise
        if weights:
            choose.check_shards(store.uri, target)
        return store.revision
    except ObjectMissingError as error:
        raise _model_missing(error) from error


def fetch_files(uri: str, storage: Storage, target: Path, say: Say, readable: Callable[[str], bool]) -> FetchedFiles:
    """Download the files of a dataset below the folder `target`.

    Args:
        uri: A file, a prefix that ends in `/`, or a pattern (see `select`).
        storage: Access to s3:// URIs.
        target: Files keep their paths below the URI's folder here.
        say: Takes sentences about progress.
        readable: Tells by its name whether a file below a prefix holds rows; the others are left alone.

    Raises:
        RunError: DatasetNotFound, or what the storage says.
    """
    wanted = select(uri)
    if wanted.single or wanted.folder.endswith((":/", ":")):
        name = uri.rpartition("/")[2]
        return FetchedFiles({name: fetch_file(uri, storage, target / name, say)})
    store = open_store(wanted.folder, storage)
    try:
        listing = store.list(wanted.prefix)
        entries = wanted.files(listing, readable)
        if not entries:
            raise RunError(Reason.DATASET_NOT_FOUND, f"{uri} names no file with rows", _near(store, wanted.pattern))
        meter = Meter(sum(entry.size for entry in entries), say)

        def bring(entry: Entry) -> FetchedFile:
            file = target / entry.path
            file.parent.mkdir(parents=True, exist_ok=True)
            store.download(entry.path, file, meter.of(entry.path))
            return FetchedFile(file, _verify(store, entry, file, entry.sha256))

        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            try:
                fetched = [done.result() for done in [pool.submit(bring, entry) for entry in entries]]
            except BaseException:  # as above
                pool.shutdown(cancel_futures=True)
                raise
    except ObjectMissingError as error:
        raise RunError(Reason.DATASET_NOT_FOUND, f"{error} does not exist", "Correct the URI.") from error
    files = {entry.path: file for entry, file in zip(entries, fetched, strict=True)}
    return FetchedFiles(files, wanted.left_alone(listing, readable))


def fetch_adapter(uri: str, storage: Storage, target: Path, say: Say) -> None:
    """Download an adapter's two files into `target`.

    Raises:
        RunError: ModelNotFound, VerificationFailed, or what the storage says.
    """
    store = open_store(uri, storage)
    try:
        listing = store.list()
        digests, entries = _digests(store, listing), {entry.path: entry for entry in listing}
        target.mkdir(parents=True, exist_ok=True)
        for name in ADAPTER_FILES:
            if name not in entries:
                raise ObjectMissingError(f"{store.uri}/{name}")
            say(f"downloading {name} of {store.uri}")
            store.download(name, target / name)
            _verify(store, entries[name], target / name, digests.get(name, ""))
    except ObjectMissingError as error:
        hint = "Correct spec.model.adapter.uri: it is the prefix of an adapter as peft saves it."
        raise RunError(Reason.MODEL_NOT_FOUND, f"{error} does not exist", hint) from error


def fetch_file(uri: str, storage: Storage, target: Path, say: Say) -> FetchedFile:
    """Download one file to `target`.

    Raises:
        RunError: DatasetNotFound, or what the storage says.
    """
    folder, _, name = uri.rpartition("/")
    if not name or folder.endswith(":/"):
        raise RunError(Reason.DATASET_NOT_FOUND, f"{uri} names no file", "Write the whole path of a .jsonl file.")
    store = open_store(folder, storage)
    try:
        entry = next((entry for entry in store.list(name) if entry.path == name), None)
        if entry is None:
            raise RunError(Reason.DATASET_NOT_FOUND, f"{uri} does not exist", _near(store, name))
        meter = Meter(entry.size, say)
        store.download(name, target, meter.of(name))
    except ObjectMissingError as error:
        raise RunError(Reason.DATASET_NOT_FOUND, f"{error} does not exist", "Correct the URI.") from error
    return FetchedFile(target, _verify(store, entry, target, entry.sha256))


def _model_missing(error: ObjectMissingError) -> RunError:
    hint = "Correct spec.model.uri or spec.model.revision."
    return RunError(Reason.MODEL_NOT_FOUND, f"{error} does not exist", hint)


def _bring(store: Store, entry: Entry, target: Path, meter: Meter, kept: Kept, digests: dict[str, str]) -> None:
    file = target / entry.path
    store.download(entry.path, file, meter.of(entry.path))
    _verify(store, entry, file, digests.get(entry.path, ""))
    kept.add(entry)


def _verify(store: Store, entry: Entry, file: Path, expected: str) -> str:
    """Compare with what the storage says of the object; a file that differs is removed. Returns the digest."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    size = file.stat().st_size
    if size == entry.size and expected in ("", digest):
        return digest
    file.unlink()
    raise RunError(
        Reason.VERIFICATION_FAILED,
        f"{store.uri}/{entry.path} arrived with {size} bytes and sha256 {digest}; the storage promised "
        f"{entry.size} bytes" + (f" and sha256 {expected}" if expected else ""),
        "Upload the file again if this happens twice.",
    )


def _digests(store: Store, listing: list[Entry]) -> dict[str, str]:
    """Digests by path: from the listing, and from a manifest.json of ours beside the files."""
    found = {entry.path: entry.sha256 for entry in listing if entry.sha256}
    if any(entry.path == "manifest.json" for entry in listing):
        try:
            files = json.loads(store.read("manifest.json"))["files"]
            found |= {path: str(facts["sha256"]) for path, facts in files.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # somebody else's manifest.json
    return found


def _near(store: Store, name: str) -> str:
    """Name keys that look alike, out of the first thousand."""
    names = [entry.path for entry in store.list(limit=1000) if not hidden(entry.path)]
    near = get_close_matches(name, names, n=3) or names[:5]
    return f"Correct the URI; there are: {', '.join(near)}." if near else f"Nothing is below {store.uri}/."
