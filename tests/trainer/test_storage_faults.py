"""A storage that fails: each operation ends right or with its reason, and nothing is ever published half."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Storage
from finetune_trainer.errors import RunError
from finetune_trainer.publish import CheckpointStore, abort_leftovers, publish
from finetune_trainer.storage import ObjectMissingError, Store, open_store, s3
from tests.trainer.checkpoint import FILES, check_checkpoint, make_checkpoint
from tests.trainer.faulty_proxy import FAULTS, FaultyProxy

pytestmark = pytest.mark.long

GOOD = {Reason.STORAGE_UNAVAILABLE, Reason.VERIFICATION_FAILED}
"""What a failing server or network may end with: both are tried again by the operator."""
PASSES = {"etag"}
"""Nothing relies on it: every object is read back and compared by its sha256."""
SAMPLE = {"400 PUT", "503 PUT", "reset PUT", "flip PUT", "lose PUT", "truncate GET", "refuse GET", "flip GET"}
"""What `make unit` tries; `make soak` tries all."""
BAD = [
    pytest.param(fault, method, marks=() if f"{fault} {method}" in SAMPLE else pytest.mark.soak)
    for fault in FAULTS
    for method in ("PUT", "GET")
]


@pytest.fixture
def proxy(s3_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the server, and a client with little patience."""
    monkeypatch.setattr(s3, "READ_SECONDS", 1)
    with FaultyProxy(str(s3_storage.endpoint)) as faulty:
        yield faulty


@pytest.fixture
def bad(proxy: FaultyProxy, s3_uri: str) -> Store:
    """The store through the proxy."""
    return open_store(s3_uri, Storage(endpoint=proxy.endpoint))


@pytest.fixture
def good(s3_uri: str, s3_storage: Storage) -> Store:
    """The same store without it."""
    return open_store(s3_uri, s3_storage)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Something to publish."""
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / "adapter" / name).write_bytes(os.urandom(20_000))
    return tmp_path / "adapter"


def _is_whole(store: Store) -> bool:
    try:
        files = json.loads(store.read("manifest.json"))["files"]
    except ObjectMissingError:
        return False
    assert files
    for path, facts in files.items():
        assert hashlib.sha256(store.read(path)).hexdigest() == facts["sha256"], path
    return True


@pytest.mark.parametrize(("fault", "method"), BAD)
def test_publishing_for_ever_ill(
    proxy: FaultyProxy, bad: Store, good: Store, folder: Path, fault: str, method: str
) -> None:
    """While it lasts: a reason that is tried again, and no manifest; once it is over, the next attempt ends well."""
    bad.list()  # connected
    proxy.fail(fault, method=method)
    if fault in PASSES or (fault, method) == ("lose", "GET"):  # nothing is lost by reading
        publish(folder, bad, {}, lambda _: None)
    else:
        with pytest.raises(RunError) as caught:
            publish(folder, bad, {}, lambda _: None)
        assert caught.value.reason in GOOD, caught.value.message
        assert proxy.failed
        assert not _is_whole(good)
    proxy.heal()
    publish(folder, bad, {}, lambda _: None)
    assert _is_whole(good)


@pytest.mark.parametrize(
    ("fault", "method"), [case for case in BAD if case.values[0] not in ("400", "flip", "lose", "etag")]
)
def test_a_fault_that_passes_is_not_even_noticed(
    proxy: FaultyProxy, bad: Store, good: Store, folder: Path, fault: str, method: str
) -> None:
    """One failure of any single request is healed by asking again."""
    proxy.fail(fault, method=method, times=1)
    publish(folder, bad, {}, lambda _: None)
    assert proxy.failed == 1
    assert _is_whole(good)


@pytest.mark.parametrize("fault", ["503", "reset", "truncate", "flip"])
def test_restoring(proxy: FaultyProxy, bad: Store, good: Store, tmp_path: Path, fault: str) -> None:
    """A fault on the way never makes an older checkpoint the newest: it comes back whole, or the attempt ends."""
    saved = CheckpointStore(good, "uid", lambda _: None)
    for step in (1, 2):
        saved.save(make_checkpoint(tmp_path / f"source-{step}", step, size=20_000), step)
    checkpoints = CheckpointStore(bad, "uid", lambda _: None)
    proxy.fail(fault, method="GET", containing="optimizer.pt", times=1)
    restored = checkpoints.restore_newest(tmp_path / "once")
    assert restored is not None
    assert check_checkpoint(restored) == 2
    assert proxy.failed == 1
    if fault == "flip":
        return  # a flipped byte that stays is a broken checkpoint
    proxy.fail(fault, method="GET", containing="optimizer.pt")
    with pytest.raises(RunError) as caught:
        checkpoints.restore_newest(tmp_path / "ever")
    assert caught.value.reason is Reason.STORAGE_UNAVAILABLE
    assert not list((tmp_path / "ever").glob("checkpoint-*"))


def test_credentials_that_expire(
    good: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, s3_storage: Storage
) -> None:
    """In the middle of a run: StorageDenied, with the remedy, and what is published stays as it is."""
    publish(folder, good, {}, lambda _: None)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "rotated" * 5)
    late = open_store(good.uri, s3_storage)
    with pytest.raises(RunError) as caught:
        publish(folder, late, {}, lambda _: None)
    assert caught.value.reason is Reason.STORAGE_DENIED
    assert "spec.storage.secretName" in caught.value.hint
    assert _is_whole(good)


def test_uploads_left_half_done_are_aborted(good: Store, s3_storage: Storage, s3_uri: str) -> None:
    """Those of this job, below its folder and right at the prefix; not those of another one, nor of a deeper prefix."""
    client, bucket = good._client, good._bucket  # type: ignore[attr-defined]
    prefix = s3_uri.rpartition("/")[2]
    ours = ["adapter_model.safetensors", ".finetune/uid/checkpoints/step-00000003/optimizer.pt"]
    others = [".finetune/other/checkpoints/step-00000003/optimizer.pt", "deeper/adapter_model.safetensors"]
    for path in ours + others:
        begun = client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/{path}")
        part = {"Bucket": bucket, "Key": f"{prefix}/{path}", "UploadId": begun["UploadId"], "PartNumber": 1}
        client.upload_part(**part, Body=b"." * 1000)
    beside = client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}-beside/adapter_model.safetensors")
    said: list[str] = []
    abort_leftovers(good, "uid", said.append)
    left = {upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)["Uploads"]}
    assert left == {f"{prefix}/{path}" for path in others} | {beside["Key"]}
    assert said == ["Aborted 2 uploads that an earlier attempt left half done."]
    local = open_store(f"file://{Path('/nonexistent')}", s3_storage)
    abort_leftovers(local, "uid", said.append)
    assert len(said) == 1
    assert FILES
