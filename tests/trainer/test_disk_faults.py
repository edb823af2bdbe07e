"""A disk that is full or turns read-only ends the run with its reason, said even where nothing can be written."""

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from finetune_api.outcome import Outcome, Reason
from finetune_trainer.disk import explain_disk
from finetune_trainer.workdir import WorkDir, heard
from finetune_trainer.worker import main
from tests.trainer.callbacks import add_to_trainers
from tests.trainer.pid1 import Start
from tests.trainer.tinyrun import run_file

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a small disk has to be mounted")
MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "work"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def _own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what the worker does to the process it has for itself otherwise."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _fill(folder: Path) -> None:
    """Until nothing fits any more."""
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(b"." * 4096)


class _After(TrainerCallback):
    """Does something to the disk after the first step, before its checkpoint is saved."""

    def __init__(self, harm: Any) -> None:
        self._harm = harm

    def on_log(self, _args: object, state: Any, _control: object, **_: object) -> None:
        if state.global_step == 1:
            self._harm()


def _work(folder: Path, disk: Path, model: Path, **training: Any) -> int:
    run = run_file(folder, model, **training)
    (folder / "run.json").write_text(run.to_json())
    return main(["--run-file", str(folder / "run.json"), "--work-dir", str(disk)])


@needs_root
@pytest.mark.usefixtures("_own_process")
def test_full_while_downloading(disk: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The base model does not fit: the scratch disk is named, not the place that the model comes from."""
    with (disk / "ballast").open("wb") as file:
        file.write(b"." * (2 * MEGABYTE - 60_000))
    code = _work(tmp_path, disk, model)
    outcome = WorkDir(disk).read_outcome() or heard(capfd.readouterr().err)
    assert outcome is not None
    assert (code, outcome.reason) == (69, Reason.STORAGE_UNAVAILABLE)
    assert f"the disk of {disk} is full" in outcome.message
    assert "workStorage" in outcome.hint


@needs_root
@pytest.mark.usefixtures("_own_process")
def test_full_while_saving(
    disk: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint does not fit: no half of it is offered, and the outcome is heard although nothing can be written.

    Training goes on for one step at most: it was written beside it.
    """
    add_to_trainers(monkeypatch, _After(lambda: _fill(disk)))
    code = _work(tmp_path, disk, model, checkpoints={"everySteps": 1})
    outcome = heard(capfd.readouterr().err)
    assert outcome is not None
    assert (code, outcome.reason) == (69, Reason.STORAGE_UNAVAILABLE)
    assert outcome.step in (1, 2)
    assert f"the disk of {disk} is full (0 MB free)" in outcome.message
    assert not list(disk.glob("outbox/step-*"))


@needs_root
@pytest.mark.usefixtures("_own_process")
def test_read_only_all_of_a_sudden(
    disk: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a kernel does with a disk that has errors."""
    remount = ["mount", "-o", "remount,ro", str(disk)]
    add_to_trainers(monkeypatch, _After(lambda: subprocess.run(remount, check=True)))
    code = _work(tmp_path, disk, model)
    outcome = heard(capfd.readouterr().err)
    assert outcome is not None
    assert (code, outcome.reason) == (73, Reason.STORAGE_DENIED)
    assert f"{disk} cannot be written" in outcome.message


@needs_root
def test_read_only_from_the_start(disk: Path, start: Start) -> None:
    """PID 1 says so before it starts anything."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, outcome, output = start("say('started')").ended()
    assert (code, outcome.reason) == (73, Reason.STORAGE_DENIED)
    assert f"{disk} cannot be written" in outcome.message
    assert "started" not in output


def test_pid_1_hears_what_could_not_be_written(start: Start) -> None:
    """An outcome in the log is as good as one in its file."""
    said = Outcome(reason=Reason.STORAGE_UNAVAILABLE, message="the disk is full", step=3).to_termination_message()
    code, outcome, _ = start(f"sys.stderr.write('\\nfinetune-outcome: ' + {said!r} + '\\n'); sys.exit(69)").ended()
    assert (code, outcome.reason, outcome.step) == (69, Reason.STORAGE_UNAVAILABLE, 3)


def test_no_disk_is_blamed_without_evidence(tmp_path: Path) -> None:
    """Errors of others stay theirs."""
    inside, outside = str(tmp_path / "x"), "/dev/nvidia0"
    assert explain_disk(PermissionError(errno.EACCES, "denied", outside), tmp_path) is None
    assert explain_disk(ConnectionResetError(errno.ECONNRESET, "reset"), tmp_path) is None
    assert explain_disk(RuntimeError("PytorchStreamWriter failed writing file"), tmp_path) is None
    denied = explain_disk(PermissionError(errno.EACCES, "denied", inside), tmp_path)
    broken = explain_disk(OSError(errno.EIO, "I/O error", inside), tmp_path)
    assert denied is not None
    assert broken is not None
    assert (denied.reason, broken.reason) == (Reason.STORAGE_DENIED, Reason.STORAGE_UNAVAILABLE)
