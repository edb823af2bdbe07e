"""Two processes stop as one: the flag is agreed between them, and one that is told alone takes the other along."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_trainer.supervisor import processes
from finetune_trainer.workdir import WorkDir
from tests.trainer.tinyrun import run_file

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]
STEPS = 150


def _start(run: RunFile, folder: Path) -> "subprocess.Popen[bytes]":
    folder.mkdir()
    (folder / "run.json").write_text(run.to_json())
    program = [sys.executable, "-m", "finetune_trainer", "--run-file", str(folder / "run.json"), "--port", "0"]
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(
            [*program, "--work-dir", str(folder / "work"), "--termination-log", str(folder / "log")],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _wait_for_step(trainer: "subprocess.Popen[bytes]", folder: Path, step: int) -> None:
    work = WorkDir(folder / "work")
    while (progress := work.read_progress()) is None or progress.step < step:
        assert trainer.poll() is None, (folder / "output").read_text()
        time.sleep(0.005)


def _rank(launcher: int, rank: int) -> int:
    """The process id of one worker."""
    below = [pid for child in processes._children().get(launcher, []) for pid in processes._children().get(child, [])]
    return next(pid for pid in below if f"LOCAL_RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text())


def _ended(trainer: "subprocess.Popen[bytes]", folder: Path) -> tuple[int, Outcome]:
    code = trainer.wait(timeout=120)
    return code, Outcome.from_termination_message((folder / "log").read_text())


def _run(folder: Path, model: Path) -> RunFile:
    run = run_file(folder, model, maxSteps=STEPS, epochs=99, loggingSteps=10, checkpoints={"everySteps": 1000})
    return run.model_copy(update={"processes": 2})


@pytest.fixture(scope="module")
def straight(model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of two processes that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    code, _ = _ended(_start(_run(folder, model), folder / "first"), folder / "first")
    assert code == 0, (folder / "first/output").read_text()
    return (folder / "out/adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("told", ["all", 0, 1])
def test_two_processes_stop_at_one_step(told: str | int, model: Path, straight: bytes, tmp_path: Path) -> None:
    """All are told, or one alone: both end, their checkpoint is in storage, and the resumed run gets the same bits."""
    run = _run(tmp_path, model)
    trainer = _start(run, tmp_path / "first")
    _wait_for_step(trainer, tmp_path / "first", 3)
    os.kill(trainer.pid if told == "all" else _rank(trainer.pid, int(told)), signal.SIGTERM)
    code, outcome = _ended(trainer, tmp_path / "first")
    # Nobody asked this run to stop where one worker alone was told: for PID 1 a peer was lost.
    expected = (75, Reason.PREEMPTED) if told == "all" else (82, Reason.PEER_LOST)
    assert (code, outcome.reason) == expected, (tmp_path / "first/output").read_text()
    assert 3 <= outcome.step < STEPS
    assert f"the checkpoint of step {outcome.step} is in storage" in outcome.message
    code, outcome = _ended(_start(run, tmp_path / "second"), tmp_path / "second")
    assert code == 0, (tmp_path / "second/output").read_text()
    assert (tmp_path / "out/adapter_model.safetensors").read_bytes() == straight
