"""MLflow's own server, W&B's and Trackio's own clients: each has every number of metrics.jsonl, at its step.

They are installed as docs/trackers.md says, behind the trainer's own packages. W&B has no server to run here: its
client writes offline what it would send.
"""

import json
import os
import shutil
import signal
import site
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1 import Tracker
from tests.trainer.nodes import free_ports
from tests.trainer.tinyrun import run_file

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
LOSSES = {"loss": "train/loss", "eval_loss": "eval/loss"}
"""What metrics.jsonl calls them, and transformers for W&B and Trackio."""


def install(folder: Path, requirements: Path) -> Path:
    """A virtual environment with those packages; returns its Python."""
    uv = shutil.which("uv") or str(ROOT / ".tools/bin/uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin/python"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "--requirement", requirements], check=True)
    return python


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the trainer, and the clients of the example after it, as the image of docs/extensions.md."""
    folder = tmp_path_factory.mktemp("image")
    python = install(folder / "clients", ROOT / "examples/trackers/requirements.txt")
    (clients,) = (folder / "clients/lib").glob("python*/site-packages")
    (ours,) = site.getsitepackages()
    clients.rename(folder / "brought")
    clients.mkdir()
    lines = f"import site; site.addsitedir({ours!r})\n{folder / 'brought'}\n"
    (clients / "extensions.pth").write_text(lines)
    return python


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """MLflow's REST API (https://mlflow.org/docs/latest/rest-api.html)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - http on loopback
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        text = answer.read()
    return json.loads(text) if text.startswith(b"{") else text


@contextmanager
def serving(command: list[str], cwd: Path, url: str) -> Iterator[None]:
    """A server of our own, once it answers; its whole process group ends with it."""
    with (cwd / "server.log").open("w") as log:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven processes more
        server = subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while True:
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                ask(url)
                break
            assert server.poll() is None, (cwd / "server.log").read_text()
            assert time.monotonic() < deadline, "the server never answered"
            time.sleep(0.5)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # on SIGTERM it may linger, and nothing of it is kept
        server.wait()


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a tracking server on loopback, with nothing in it."""
    folder = tmp_path_factory.mktemp("mlflow")
    python = install(folder / "env", Path(__file__).parent / "servers/mlflow.txt")
    port = free_ports()
    command = [str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", str(folder / "files")]
    with serving([*command, *stores], folder, f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


def run_with(image: Path, folder: Path, model: Path, *trackers: Tracker) -> str:
    """Train four steps through PID 1; returns what is in the log of its pod."""
    run = run_file(folder, model, maxSteps=4)
    training = run.training.model_copy(update={"trackers": list(trackers)})
    evaluation = run.evaluation.model_copy(update={"every_steps": 2})
    (folder / "run.json").write_text(run.model_copy(update={"training": training, "evaluation": evaluation}).to_json())
    command = [image, "-m", "finetune_trainer", "--run-file", folder / "run.json", "--port", "0"]
    done = subprocess.run(
        [*command, "--work-dir", folder / "work", "--termination-log", folder / "end"],
        env={**os.environ, "WANDB_MODE": "offline"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def tracked(image: Path, mlflow: str, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has reported to all three."""
    folder = tmp_path_factory.mktemp("tracked")
    wandb, trackio = Tracker(type="WandB", project="team/support"), Tracker(type="Trackio", project="support")
    said = run_with(image, folder, model, Tracker(type="MLflow", uri=mlflow, project="support/bot"), wandb, trackio)
    assert "left alone" not in said
    return folder


def losses(tracked: Path, name: str) -> dict[int, float]:
    """By step, as the run itself has kept them."""
    entries = [json.loads(line) for line in (tracked / "work/metrics.jsonl").read_text().splitlines()]
    return {entry["step"]: entry[name] for entry in entries if name in entry}


@pytest.mark.parametrize("name", LOSSES)
def test_mlflow_has_each_loss(tracked: Path, mlflow: str, name: str) -> None:
    """In one finished run of the experiment that the job names; read back through the server."""
    api = f"{mlflow}/api/2.0/mlflow"
    experiment = ask(f"{api}/experiments/get-by-name?experiment_name=support/bot")["experiment"]["experiment_id"]
    (run,) = ask(f"{api}/runs/search", {"experiment_ids": [experiment]})["runs"]
    assert (run["info"]["run_name"], run["info"]["status"]) == ("tiny-u1", "FINISHED")
    history = ask(f"{api}/metrics/get-history?run_id={run['info']['run_id']}&metric_key={name}")["metrics"]
    assert {entry["step"]: entry["value"] for entry in history} == pytest.approx(losses(tracked, name))
    assert len(history) >= 2


@pytest.mark.parametrize("name", LOSSES)
def test_trackio_has_each_loss(tracked: Path, name: str) -> None:
    """In the database of the project, in the scratch folder."""
    with closing(sqlite3.connect(tracked / "work/trackio/support.db")) as database:
        found = [
            json.loads(text) for (text,) in database.execute("SELECT metrics FROM metrics WHERE run_name = 'tiny-u1'")
        ]
    told = {entry["train/global_step"]: entry[LOSSES[name]] for entry in found if LOSSES[name] in entry}
    assert told == pytest.approx(losses(tracked, name))


def test_wandb_would_send_each_loss(tracked: Path) -> None:
    """With the entity and the project that the job names, and the job's uid as the run's id."""
    (file,) = (tracked / "work/wandb").glob("offline-run-*-u1/run-u1.wandb")
    record = file.read_bytes()
    assert b"team" in record
    assert b"support" in record
    assert b"team/support" not in record
    for name in LOSSES:
        assert all(repr(loss).encode() in record for loss in losses(tracked, name).values()), name


def test_a_server_that_never_answers_is_asked_three_times(image: Path, model: Path, tmp_path: Path) -> None:
    """MLflow's client would ask eight times, for two minutes each, while the GPUs wait."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(1)
        port = silent.getsockname()[1]
        said = run_with(image, tmp_path, model, Tracker(type="MLflow", uri=f"http://127.0.0.1:{port}"))
        asked = []
        with suppress(TimeoutError):
            while True:
                asked.append(silent.accept())
    for connection, _ in asked:
        connection.close()
    assert said.count("the tracker MLflow failed (MlflowException) and is left alone from here on") == 1
    assert len(asked) == 3
