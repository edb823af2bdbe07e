"""What a real S3 server refuses becomes the right reason, with the offending value and never a secret."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.config import Config

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Storage
from finetune_trainer.errors import RunError
from finetune_trainer.storage import ObjectMissingError, open_store
from finetune_trainer.storage import s3 as s3_module
from localcluster.s3 import S3Server

SECRET = "wrongsecretwrongsecretwrongsecret"


def _errors(uri: str, storage: Storage, folder: Path) -> Iterator[RunError]:
    """Try every operation on one store, and yield what each raises."""
    store = open_store(uri, storage)
    (folder / "file").write_bytes(b"x")
    operations = (
        store.list,
        lambda: store.read("x"),
        lambda: store.write("x", b""),
        lambda: store.exists("x"),
        lambda: store.sha256("x"),
        lambda: store.download("x", folder / "x"),
        lambda: store.upload(folder / "file", "x"),
    )
    for operation in operations:
        with pytest.raises(RunError) as caught:
            operation()
        yield caught.value


def test_missing_bucket(s3_storage: Storage, tmp_path: Path) -> None:
    """Every operation on a missing bucket names the bucket."""
    for error in _errors("s3://no-such-bucket/prefix", s3_storage, tmp_path):
        assert error.reason is Reason.BUCKET_NOT_FOUND
        assert "'no-such-bucket'" in error.message


def test_answer_without_a_body(s3_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As set up for AWS, boto3 begins a download with HEAD, whose 404 says not what is missing: the bucket is told."""
    monkeypatch.setattr(s3_module, "_config", lambda **_: Config(s3={"addressing_style": "path"}))
    with pytest.raises(RunError, match="no-such-bucket") as caught:
        open_store("s3://no-such-bucket/prefix", s3_storage).download("x", tmp_path / "x")
    assert caught.value.reason is Reason.BUCKET_NOT_FOUND
    with pytest.raises(ObjectMissingError, match="s3://adapters/prefix/x"):
        open_store("s3://adapters/prefix", s3_storage).download("x", tmp_path / "x")


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(
    s3: S3Server, s3_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Wrong credentials are denied; of the key its last four characters are told, of the secret nothing."""
    monkeypatch.setenv(wrong, SECRET)
    key = SECRET if wrong == "AWS_ACCESS_KEY_ID" else s3.access_key
    for error in _errors("s3://adapters/prefix", s3_storage, tmp_path):
        assert error.reason is Reason.STORAGE_DENIED
        assert f"the access key that ends in {key[-4:]}:" in error.message
        assert "AWS_SECRET_ACCESS_KEY" in error.hint
        assert not [told for told in (SECRET, s3.secret_key, s3.access_key) if told in error.message + error.hint]


def test_missing_credentials(s3_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing credentials are denied with the remedy."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for error in _errors("s3://adapters/prefix", s3_storage, tmp_path):
        assert error.reason is Reason.STORAGE_DENIED
        assert "spec.storage.secretName" in error.hint


def test_unreachable(s3_storage: Storage, tmp_path: Path) -> None:
    """A server that does not answer is unavailable, and named."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: refused at once
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        storage = s3_storage.model_copy(update={"endpoint": endpoint})
        for error in _errors("s3://adapters/prefix", storage, tmp_path):
            assert error.reason is Reason.STORAGE_UNAVAILABLE
            assert endpoint in error.message
