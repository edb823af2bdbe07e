"""Credentials in the environment of a real trainer, which the servers refuse: nobody reads them anywhere afterwards."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from finetune_api.outcome import Outcome, Reason
from localcluster.s3 import S3Server
from tests.trainer.pid1 import TIMEOUT, pid1_run_file

SECRET, SESSION, TOKEN, KEY_ID = (f"marked-{what}-5d1e8b7a9c" for what in ("secret", "session", "token", "keyid"))
MARKED = (SECRET, SESSION, TOKEN, KEY_ID)


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """A hub that lets nobody in; its URL, and the credentials that it was shown."""
    shown: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("Authorization", ""))
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - named by http.server

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", shown
        http.shutdown()


def refused(folder: Path, endpoint: str, hub: str, **changes: object) -> tuple[Outcome, list[str]]:
    """Run PID 1 with marked credentials to its end; its outcome, and everything that it wrote anywhere."""
    work, log = folder / "work", folder / "termination-log"
    run = pid1_run_file(folder, stage="prepare", storage={"endpoint": endpoint}, **changes)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HF_"))}
    environment |= {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": SESSION,
        "AWS_MAX_ATTEMPTS": "1",
        "HF_TOKEN": TOKEN,
        "HF_ENDPOINT": hub,
        "HF_HOME": str(work / "hub"),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "finetune_trainer", "--run-file", str(run), "--work-dir", str(work)]
    command += ["--termination-log", str(log), "--port", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    outcome = Outcome.from_termination_message(log.read_text())
    assert done.returncode == outcome.reason.exit_code
    files = [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
    assert done.stdout + done.stderr
    return outcome, [done.stdout, done.stderr, json.dumps(command), *files]


@pytest.mark.long
def test_an_s3_server_that_refuses(tmp_path: Path, s3: S3Server, hub: tuple[str, list[str]]) -> None:
    """Its answer is told, with the last letters of the key at most."""
    (tmp_path / "model").mkdir()
    dataset = {"train": {"uri": "s3://datasets/rows.jsonl"}}
    outcome, texts = refused(tmp_path, s3.endpoint, hub[0], dataset=dataset)
    assert outcome.reason is Reason.STORAGE_DENIED
    assert s3.endpoint in outcome.message
    for text in texts:
        assert not [mark for mark in MARKED if mark in text]


@pytest.mark.long
def test_a_hub_that_refuses(tmp_path: Path, s3: S3Server, hub: tuple[str, list[str]]) -> None:
    """It was shown the token, and nobody else."""
    url, shown = hub
    (tmp_path / "rows.jsonl").write_text("{}\n")
    outcome, texts = refused(tmp_path, s3.endpoint, url, model={"uri": "hf://owner/private"})
    assert outcome.reason is Reason.STORAGE_DENIED
    assert f"Bearer {TOKEN}" in shown
    for text in texts:
        assert not [mark for mark in MARKED if mark in text]
