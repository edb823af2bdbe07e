"""Every store keeps the same laws: what is written is read back, and nothing outside the prefix is seen."""

import hashlib
import os
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Storage
from finetune_trainer.errors import RunError
from finetune_trainer.storage import ObjectMissingError, Store, open_store, s3, store


@pytest.fixture(params=["s3", "file", "pvc"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh URI of each kind."""
    monkeypatch.setattr(store, "PVC_ROOT", tmp_path / "pvc")
    (tmp_path / "pvc/claim").mkdir(parents=True)
    return {"s3": s3_uri, "file": f"file://{tmp_path}/store", "pvc": "pvc://claim/some/where"}[request.param]


@pytest.fixture
def opened(uri: str, s3_storage: Storage) -> Store:
    """Its store."""
    return open_store(uri, s3_storage)


def test_round_trip(opened: Store, tmp_path: Path) -> None:
    """What is written is read back."""
    source = tmp_path / "weights"
    source.write_bytes(os.urandom(300_000))
    opened.write("small.json", b"{}")
    opened.upload(source, "deep/er/weights")
    heard: list[int] = []
    opened.download("deep/er/weights", tmp_path / "new/copy", heard.append)
    assert (tmp_path / "new/copy").read_bytes() == source.read_bytes()
    assert sum(heard) == 300_000
    assert opened.read("small.json") == b"{}"
    assert opened.sha256("deep/er/weights") == hashlib.sha256(source.read_bytes()).hexdigest()
    assert [(entry.path, entry.size) for entry in opened.list()] == [("deep/er/weights", 300_000), ("small.json", 2)]


def test_uri_without_slash(uri: str, s3_storage: Storage) -> None:
    """The URI is told without a slash at its end."""
    assert open_store(f"{uri}/", s3_storage).uri == uri


def test_prefix_is_a_folder(uri: str, s3_storage: Storage) -> None:
    """A prefix is a folder and not the start of a name."""
    open_store(f"{uri}/a", s3_storage).write("x", b"1")
    open_store(f"{uri}/ab", s3_storage).write("y", b"2")
    assert [entry.path for entry in open_store(f"{uri}/a", s3_storage).list()] == ["x"]
    assert [entry.path for entry in open_store(uri, s3_storage).list("a", limit=1)] == ["a/x"]


def test_exists(opened: Store) -> None:
    """Exists knows an object from a longer name and from a folder."""
    opened.write("manifest.json.old", b"")
    opened.write("folder/x", b"")
    assert [opened.exists(path) for path in ("manifest.json", "folder", "folder/x")] == [False, False, True]


def test_delete(opened: Store) -> None:
    """A deleted object is gone and deleting it again is no error."""
    opened.write("deep/x", b"1")
    opened.delete("deep/x")
    opened.delete("deep/x")
    assert opened.list() == []
    assert not opened.exists("deep/x")


@pytest.mark.parametrize("method", ["read", "sha256", "download"])
def test_missing_object(opened: Store, tmp_path: Path, method: str) -> None:
    """A missing object is named."""
    arguments = [tmp_path / "target"] if method == "download" else []
    opened.write("there", b"")
    with pytest.raises(ObjectMissingError, match=f"^{opened.uri}/gone$"):
        getattr(opened, method)("gone", *arguments)
    assert not (tmp_path / "target").exists()


def test_version(opened: Store) -> None:
    """A changed object has another version."""
    opened.write("x", b"1")
    first = opened.list()
    opened.write("x", b"2")
    assert first[0].version not in ("", opened.list()[0].version)


def test_multipart(s3_uri: str, s3_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file travels in parts."""
    part = 5 << 20
    monkeypatch.setattr(s3, "_TRANSFER", TransferConfig(multipart_threshold=part, multipart_chunksize=part))
    source = tmp_path / "large"
    source.write_bytes(os.urandom(2 * part + 1))
    opened = open_store(s3_uri, s3_storage)
    opened.upload(source, "large")
    opened.download("large", tmp_path / "copy")
    assert opened.list()[0].version.endswith("-3")  # the ETag of three parts
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_half_copied(tmp_path: Path) -> None:
    """A half copied file is not listed."""
    (tmp_path / ".weights.part").write_bytes(b"half")
    assert open_store(f"file://{tmp_path}", Storage()).list() == []


def test_unmounted_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that is not mounted is denied."""
    monkeypatch.setattr(store, "PVC_ROOT", tmp_path)
    with pytest.raises(RunError, match="the claim of pvc://gone/x/y is not mounted") as caught:
        open_store("pvc://gone/x", Storage()).write("y", b"")
    assert caught.value.reason is Reason.STORAGE_DENIED


@pytest.mark.parametrize("uri", ["file:///a/../etc", "gs://bucket/x", "hf://alone"])
def test_impossible_uri(uri: str) -> None:
    """An impossible URI is an invalid configuration that names it."""
    with pytest.raises(RunError, match=uri) as caught:
        open_store(uri, Storage())
    assert caught.value.reason is Reason.INVALID_CONFIGURATION


def test_replaced_in_one_step(tmp_path: Path) -> None:
    """Who reads a file while it is replaced sees the old one to its end, and nothing is left beside the new one."""
    opened = open_store(f"file://{tmp_path}", Storage())
    opened.write("x", b"old")
    with (tmp_path / "x").open("rb") as reader:
        opened.write("x", b"new")
        assert reader.read() == b"old"
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x", b"new")]
