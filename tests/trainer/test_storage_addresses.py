"""No request goes where clouds keep a machine's credentials: not by a job's own URL, and not by a server's redirect."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Model, Storage
from finetune_trainer.errors import RunError
from finetune_trainer.storage import addresses, open_store
from finetune_trainer.storage.fetch import fetch_model
from tests.trainer.test_storage_hub import use_hub

METADATA = "169.254.169.254"


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses outside of loopback that somebody wants to connect to; nobody gets there."""
    outside: list[Any] = []
    connect = socket.socket.connect

    def only_loopback(this: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1"):
            outside.append(address)
            raise OSError(f"{address} is not loopback")
        connect(this, address)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)
    return outside


@contextmanager
def redirecting(status: int, target: str) -> Iterator[tuple[str, list[str]]]:
    """A server that sends everybody elsewhere; its URL, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Location", target + self.path)
            self.send_header("x-amz-bucket-region", "eu-west-1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_GET  # noqa: N815 - named by http.server

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()


def operations(store: Any, folder: Path) -> list[Any]:
    """Everything that a store does with its server."""
    (folder / "file").write_bytes(b"x")
    return [
        store.list,
        lambda: store.read("x"),
        lambda: store.write("x", b""),
        lambda: store.sha256("x"),
        lambda: store.download("x", folder / "x"),
        lambda: store.upload(folder / "file", "x"),
    ]


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any; one try is enough."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    "host",
    [
        METADATA,
        "169.254.0.1",
        "2852039166",  # 169.254.169.254, as a number
        "0xa9.0xfe.0xa9.0xfe",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
        "metadata.google.internal",
        "METADATA.google.internal.",
    ],
)
def test_an_endpoint_of_that_kind_is_refused(called: list[Any], tmp_path: Path, host: str) -> None:
    """Whatever the way to write it: by every operation, as the author's mistake, and nothing is sent."""
    store = open_store("s3://bucket/prefix", Storage.model_construct(endpoint=f"http://{host}/x", region="us-east-1"))
    for operation in operations(store, tmp_path):
        with pytest.raises(RunError, match="was not sent") as caught:
            operation()
        assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert called == []


def test_a_name_that_leads_there_is_refused(monkeypatch: pytest.MonkeyPatch, called: list[Any]) -> None:
    """Of several addresses one is enough; the message says which."""
    there = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", METADATA)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: there)
    with pytest.raises(RunError, match=rf"innocent\.test \({METADATA}\)"):
        addresses.refuse("https://innocent.test/bucket")
    assert called == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000", "https://10.0.0.7", "https://192.168.1.9", "http://[fd12::7]"]
)
def test_servers_at_home_are_served(url: str) -> None:
    """Private networks are where MinIO lives."""
    addresses.refuse(url)


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_of_an_s3_server_is_not_followed(called: list[Any], tmp_path: Path, status: int) -> None:
    """Neither there nor anywhere else: S3 has other ways to name a bucket's region."""
    with redirecting(200, "") as (elsewhere, reached):
        for target in (f"http://{METADATA}", elsewhere):
            with redirecting(status, target) as (url, asked):
                store = open_store("s3://bucket/prefix", Storage(endpoint=url))
                for operation in operations(store, tmp_path):
                    with pytest.raises(RunError):
                        operation()
                assert asked
        assert reached == []
    assert called == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_a_hub_is_refused(
    called: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    """A hub may send us to its file servers, and does; never there."""
    with redirecting(status, f"http://{METADATA}") as (url, asked):
        use_hub(url, monkeypatch, tmp_path)
        with pytest.raises(RunError, match=f"{METADATA} was not sent") as caught:
            fetch_model(Model(uri="hf://owner/good"), Storage(), tmp_path / "model", lambda _: None)
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert asked
    assert called == []
