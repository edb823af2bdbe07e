"""What `prepare` found at a branch is what is trained, however the branch moves; a small hub on loopback moves it."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Model
from finetune_trainer.errors import RunError
from finetune_trainer.preparation.stage import execute as prepare_stage
from finetune_trainer.storage import open_store
from finetune_trainer.training.inputs import bring_inputs
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir
from tests.trainer.test_storage_hub import use_hub
from tests.trainer.tinyrun import execute, run_file, session

FIRST, SECOND = "a" * 40, "b" * 40
URI = "hf://owner/tiny"


class Hub(ThreadingHTTPServer):
    """One repository with two commits that differ in their weights alone."""

    def __init__(self, first: Path, second: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits = {FIRST: first, SECOND: second}
        self.main = FIRST


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        """Describe a revision, or serve a file of it."""
        parts = self.path.partition("?")[0].removeprefix("/api/models").strip("/").split("/")
        wanted = parts[3] if len(parts) > 3 else "main"
        commit = self.server.main if wanted == "main" else wanted
        if parts[1] != "tiny" or commit not in self.server.commits:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        files = {file.name: file.read_bytes() for file in self.server.commits[commit].iterdir()}
        if "resolve" not in parts:
            self._answer(200, json.dumps(_description(commit, files)).encode(), {})
            return
        content = files[parts[4]]
        self._answer(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit})

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


def _description(commit: str, files: dict[str, bytes]) -> dict[str, Any]:
    siblings = [
        {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}  # noqa: S324 - as git
        for name, content in files.items()
    ]
    return {"id": "owner/tiny", "sha": commit, "siblings": siblings}


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that huggingface_hub asks; its branch is at the first commit."""
    second = shutil.copytree(model, tmp_path / "second")
    weights = bytearray((second / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (second / "model.safetensors").write_bytes(weights)
    with Hub(model, second) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        use_hub(f"http://127.0.0.1:{http.server_port}", monkeypatch, tmp_path)
        yield http
        http.shutdown()


def asks(folder: Path, model: Path, revision: str | None = None, uri: str = URI) -> RunFile:
    """A run of the hub's model."""
    asked = Model(uri=uri, revision=revision) if revision else Model(uri=uri)
    return run_file(folder, model, maxSteps=1).model_copy(update={"model": asked})


def prepare(run: RunFile, work: Path) -> Outcome:
    """The stage, in this process."""
    return prepare_stage(run.model_copy(update={"stage": Stage.PREPARE}), WorkDir(work), StopSwitch())


def told(outcome: Outcome) -> str | None:
    """The commit that it reports."""
    return outcome.dataset.model_revision if outcome.dataset else None


@pytest.mark.parametrize("revision", [None, "main", FIRST])
def test_what_was_prepared_is_trained(revision: str | None, hub: Hub, model: Path, tmp_path: Path) -> None:
    """The run file of an attempt that takes the reported commit brings that commit's weights after the branch moved."""
    run = asks(tmp_path, model, revision)
    pinned = told(prepare(run, tmp_path / "a"))
    assert pinned == FIRST
    hub.main = SECOND
    trains = run.model_copy(update={"model": run.model.model_copy(update={"revision": pinned})})

    inputs = bring_inputs(session(trains, tmp_path / "b"), open_store(run.output.uri, run.storage))

    assert (inputs.revision, inputs.report.model_revision) == (FIRST, FIRST)
    assert (tmp_path / "b/model/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_rows_that_are_used_again_name_a_commit_too(
    hub: Hub, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second attempt whose tokenizer is the same one reports the commit that it has read it from."""
    run = asks(tmp_path, model)
    prepare(run, tmp_path / "a")
    hub.main = SECOND
    with caplog.at_level("INFO"):
        assert told(prepare(run, tmp_path / "b")) == SECOND
    assert "an earlier attempt has prepared these very rows" in caplog.text


def test_pinning_hides_no_result(hub: Hub, model: Path, tmp_path: Path) -> None:
    """What was trained at a commit is found by a job that names the branch, while the branch has the same files.

    The commands of its card name the commit.
    """
    run = asks(tmp_path, model)
    execute(asks(tmp_path, model, FIRST), tmp_path / "a")
    card = (tmp_path / "out/README.md").read_text()
    assert f'from_pretrained("owner/tiny", revision="{FIRST}")' in card
    assert f"vllm serve owner/tiny --revision {FIRST} " in card
    assert (found := prepare(run, tmp_path / "b")).reason is Reason.ALREADY_PUBLISHED
    assert told(found) == FIRST
    hub.main = SECOND
    assert prepare(run, tmp_path / "c").reason is Reason.PREPARED


@pytest.mark.usefixtures("hub")
def test_a_model_that_is_not_there_is_the_users_mistake(model: Path, tmp_path: Path) -> None:
    """ModelNotFound, by its name, from the stage that asks for it first."""
    with pytest.raises(RunError, match="hf://owner/gone does not exist") as caught:
        prepare(asks(tmp_path, model, uri="hf://owner/gone"), tmp_path / "work")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
