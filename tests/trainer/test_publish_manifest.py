"""What is published is read back and compared; what differs fails and leaves no manifest."""

import hashlib
import json
from pathlib import Path

import pytest

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Storage
from finetune_trainer.errors import RunError
from finetune_trainer.publish import check_writable, publish
from finetune_trainer.storage import open_store
from finetune_trainer.storage.local import LocalStore


class Changing(LocalStore):
    """A storage that changes one object after it was written."""

    victim = ""

    def upload(self, source: Path, path: str) -> None:
        """Write, and change."""
        super().upload(source, path)
        self._change(path)

    def write(self, path: str, data: bytes) -> None:
        """Write, and change."""
        super().write(path, data)
        self._change(path)

    def _change(self, path: str) -> None:
        if path == self.victim:
            (self._root / path).write_bytes(b"changed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Something to publish."""
    (tmp_path / "adapter/sub").mkdir(parents=True)
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    (tmp_path / "adapter/sub/x.json").write_bytes(b"{}")
    return tmp_path / "adapter"


def test_manifest(folder: Path, s3_uri: str, s3_storage: Storage) -> None:
    """The manifest has every file's size and digest beside the facts, and the artifact is what is in storage."""
    said: list[str] = []
    store = open_store(s3_uri, s3_storage)
    artifact = publish(folder, store, {"seed": 7, "base": {"commit": "abc"}}, said.append)
    data = store.read("manifest.json")
    assert json.loads(data) == {
        "version": "finetune.dev/manifest/v1",
        "seed": 7,
        "base": {"commit": "abc"},
        "files": {
            "adapter_model.safetensors": {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()},
            "sub/x.json": {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
        },
    }
    assert artifact.model_dump() == {
        "uri": s3_uri,
        "manifest_sha256": hashlib.sha256(data).hexdigest(),
        "bytes": 9,
        "files": 2,
    }
    assert "adapter_model.safetensors" in said[0]


def test_same_folder_gives_the_same_manifest(folder: Path, tmp_path: Path) -> None:
    """Publishing twice gives the same bytes, and a manifest.json within the folder is not taken as a file."""
    store = open_store(f"file://{tmp_path}/out", Storage())
    first = publish(folder, store, {"b": 1, "a": 2}, lambda _: None)
    (folder / "manifest.json").write_text("stale")
    assert publish(folder, store, {"a": 2, "b": 1}, lambda _: None) == first


@pytest.mark.parametrize("victim", ["adapter_model.safetensors", "sub/x.json", "manifest.json"])
def test_changed_in_storage(folder: Path, tmp_path: Path, victim: str) -> None:
    """An object that reads back differently fails with both digests, and no manifest stays, not even an older one."""
    store = Changing("file:///out", tmp_path / "out")
    publish(folder, store, {}, lambda _: None)
    store.victim = victim
    with pytest.raises(RunError, match=victim) as caught:
        publish(folder, store, {}, lambda _: None)
    assert caught.value.reason is Reason.VERIFICATION_FAILED
    assert hashlib.sha256(b"changed").hexdigest() in caught.value.message
    if victim == "sub/x.json":
        assert hashlib.sha256(b"{}").hexdigest() in caught.value.message
    assert not store.exists("manifest.json")


def test_nothing_of_an_older_result_stays(folder: Path, s3_uri: str, s3_storage: Storage) -> None:
    """What only the older manifest names goes, in sub-folders too; what none names is not ours and stays."""
    store = open_store(s3_uri, s3_storage)
    for path in ("chat_template.jinja", "merged/model.safetensors"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(b"of the older one")
    publish(folder, store, {}, lambda _: None)
    foreign = ("notes.txt", "merged/notes.txt", ".finetune/uid/checkpoints/step-1/optimizer.pt")
    for path in foreign:
        store.write(path, b"somebody's")
    for path in ("chat_template.jinja", "merged/model.safetensors"):
        (folder / path).unlink()

    publish(folder, store, {}, lambda _: None)

    ours = ("adapter_model.safetensors", "manifest.json", "sub/x.json")
    assert [entry.path for entry in store.list()] == sorted([*ours, *foreign])


@pytest.mark.parametrize("found", [b"{", b'{"files": {"../out.txt": {"sha256": "a"}}}', b"[]"])
def test_an_older_manifest_that_cannot_be_trusted(found: bytes, folder: Path, tmp_path: Path) -> None:
    """It is replaced, and what it names is left alone, within the folder and outside."""
    (tmp_path / "out.txt").write_text("kept")
    store = open_store(f"file://{tmp_path}/out", Storage())
    store.write("manifest.json", found)
    publish(folder, store, {}, lambda _: None)
    assert (tmp_path / "out.txt").read_text() == "kept"
    assert json.loads(store.read("manifest.json"))["files"]["sub/x.json"]["size"] == 2


def test_probe(s3_uri: str, s3_storage: Storage) -> None:
    """The probe leaves nothing behind, and says at once what would fail hours later."""
    store = open_store(s3_uri, s3_storage)
    check_writable(store, "uid")
    assert store.list() == []
    with pytest.raises(RunError) as caught:
        check_writable(open_store("s3://no-such-bucket/x", s3_storage), "uid")
    assert caught.value.reason is Reason.BUCKET_NOT_FOUND


def test_verified_between_upload_and_manifest(folder: Path, tmp_path: Path) -> None:
    """The check runs when every file is there and the manifest is not; what it refuses never gets one."""
    store = open_store(f"file://{tmp_path}/out", Storage())
    publish(folder, store, {}, lambda _: None)  # an older result
    seen: dict[str, str] = {}

    def refuse(digests: dict[str, str]) -> None:
        seen.update(digests)
        assert not store.exists("manifest.json")
        assert all(store.sha256(path) == digest for path, digest in digests.items())
        raise RunError(Reason.VERIFICATION_FAILED, "no")

    with pytest.raises(RunError, match="no"):
        publish(folder, store, {}, lambda _: None, refuse)
    assert seen.keys() == {"adapter_model.safetensors", "sub/x.json"}
    assert not store.exists("manifest.json")
