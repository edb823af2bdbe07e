"""The hub's answers become the right reasons: real huggingface_hub against a small HTTP server on loopback."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Model, Storage
from finetune_trainer.data.containers import reads
from finetune_trainer.errors import RunError
from finetune_trainer.storage.fetch import fetch_file, fetch_files, fetch_model

COMMIT = "0123456789012345678901234567890123456789"
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle", "rows/a.jsonl": b"{}\n"}
ERRORS = {"gated": (403, "GatedRepo"), "broken": (500, ""), "forbidden": (403, "")}


class _Hub(BaseHTTPRequestHandler):
    """The three requests that a download needs; the name of the repository decides the answer."""

    def do_GET(self) -> None:
        """Serve the repository's description or a file."""
        parts = self.path.partition("?")[0].removeprefix("/api").strip("/").split("/")
        if parts[0] in ("models", "datasets"):
            parts = parts[1:]
        name = parts[1]
        if name in ERRORS or name != "good":
            status, code = ERRORS.get(name, (404, "RepoNotFound"))
            self._answer(status, b"{}", {"X-Error-Code": code} if code else {})
        elif "resolve" in parts:
            content = FILES["/".join(parts[4:])]
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self._answer(200, content, headers)
        elif "revision" in parts and parts[-1] not in ("main", COMMIT):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._answer(200, _description(), {})

    do_HEAD = do_GET  # noqa: N815 - named by http.server

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _description() -> bytes:
    siblings = [
        {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}  # noqa: S324 - as git
        | ({"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}}
           if name == "model.safetensors" else {})
        for name, content in FILES.items()
    ]  # fmt: skip
    return json.dumps({"id": "owner/good", "sha": COMMIT, "siblings": siblings}).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of the hub."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.fixture
def hub(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let huggingface_hub ask it; the real one reads HF_ENDPOINT when it is imported."""
    use_hub(server, monkeypatch, tmp_path)


def use_hub(endpoint: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Ask this hub in the rest of the test."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))


def _refused(uri: str, folder: Path, revision: str | None = None) -> RunError:
    model = Model(uri=uri, revision=revision) if revision else Model(uri=uri)
    with pytest.raises(RunError) as caught:
        fetch_model(model, Storage(), folder / "model", lambda _: None)
    return caught.value


@pytest.mark.usefixtures("hub")
def test_model(tmp_path: Path) -> None:
    """The safe files of a model arrive, and the commit behind the branch is told."""
    target = tmp_path / "model"
    assert fetch_model(Model(uri="hf://owner/good", revision="main"), Storage(), target, lambda _: None) == COMMIT
    assert {file.name for file in target.iterdir() if file.is_file() and not file.name.startswith(".")} == {
        "config.json",
        "model.safetensors",
    }
    assert (target / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.usefixtures("hub")
def test_dataset(tmp_path: Path) -> None:
    """A file of a dataset repository arrives, also out of a folder; a missing one is named."""
    fetched = fetch_file("hf://datasets/owner/good/rows/a.jsonl", Storage(), tmp_path / "rows", lambda _: None)
    assert fetched.path.read_bytes() == b"{}\n"
    found = fetch_files("hf://datasets/owner/good/*/?.jsonl", Storage(), tmp_path / "all", lambda _: None, reads)
    assert {name: file.path.read_bytes() for name, file in found.files.items()} == {"rows/a.jsonl": b"{}\n"}
    with pytest.raises(RunError, match=r"good/rows/b\.jsonl does not exist") as caught:
        fetch_file("hf://datasets/owner/good/rows/b.jsonl", Storage(), tmp_path / "rows", lambda _: None)
    assert caught.value.reason is Reason.DATASET_NOT_FOUND


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "revision", "reason"),
    [
        ("gone", None, Reason.MODEL_NOT_FOUND),
        ("good", "no-such-tag", Reason.MODEL_NOT_FOUND),
        ("gated", None, Reason.GATED_MODEL),
        ("forbidden", None, Reason.STORAGE_DENIED),
        ("broken", None, Reason.HUB_UNAVAILABLE),
    ],
)
def test_refused(tmp_path: Path, name: str, revision: str | None, reason: Reason) -> None:
    """Each refusal has its own reason and names the repository, and the revision where that is wrong."""
    error = _refused(f"hf://owner/{name}", tmp_path, revision)
    assert error.reason is reason
    assert f"hf://owner/{name}" in error.message
    assert (revision or "") in error.message


def test_unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that does not answer is unavailable."""
    use_hub("http://127.0.0.1:9", monkeypatch, tmp_path)
    assert _refused("hf://owner/good", tmp_path).reason is Reason.HUB_UNAVAILABLE


@pytest.mark.usefixtures("hub")
def test_read_only(tmp_path: Path) -> None:
    """Nothing is ever written to the hub."""
    from finetune_trainer.storage import open_store

    with pytest.raises(RunError, match="read-only"):
        open_store("hf://owner/good", Storage()).write("x", b"")
    assert not list(tmp_path.iterdir())
