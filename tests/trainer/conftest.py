"""What the trainer's tests share: a tiny model, and a private S3 server (real, on loopback, without root)."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from finetune_api.v1alpha1 import Storage
from finetune_trainer.sharding.strategy import hide_deepspeed
from localcluster.s3 import S3Server, start_server
from tests.tiny import save_tiny_model
from tests.trainer.pid1 import Start, Supervised

hide_deepspeed()  # as a worker does that has no use for it


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny base model; nobody writes into it."""
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server with the buckets models, datasets and adapters. A missing binary is an error with its remedy."""
    with start_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_storage(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """`spec.storage` for the server, with its credentials in the environment as in a pod."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    return Storage(endpoint=s3.endpoint)


@pytest.fixture
def s3_uri() -> str:
    """A prefix that no other test uses."""
    return f"s3://adapters/{uuid4().hex}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a trainer; one that hangs is ended after the test, with its worker."""
    started: list[Supervised] = []

    def begin(worker: str, *options: str, **changes: object) -> Supervised:
        started.append(Supervised(tmp_path, worker, *options, **changes))
        return started[-1]

    yield begin
    for trainer in started:
        while trainer.process.poll() is None:
            trainer.process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        trainer.process.communicate()
