"""The worker as torchrun starts it: its outcome file and exit code for good ends and bad ones."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_trainer.training import fit, reporter
from finetune_trainer.workdir import WorkDir
from finetune_trainer.worker import main
from tests.trainer.tinyrun import run_file, uploading


@pytest.fixture(autouse=True)
def _signals_and_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what the worker does to the process it has for itself otherwise."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def work_here(run: RunFile, folder: Path) -> int:
    """Run the worker in this process, which has torch imported already; returns its exit code."""
    (folder / "run.json").write_text(run.to_json())
    with uploading(run, folder / "work"):
        return main(["--run-file", str(folder / "run.json"), "--work-dir", str(folder / "work")])


def terminate_at(step: int, folder: Path) -> None:
    """Send this process SIGTERM once the worker says that it has done `step` steps."""

    def watch() -> None:
        work = WorkDir(folder / "work")
        while (progress := work.read_progress()) is None or progress.step < step:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def outcome(folder: Path) -> Outcome:
    """What the worker wrote at its end."""
    written = WorkDir(folder / "work").read_outcome()
    assert written is not None
    return written


def test_sigterm_saves_and_the_next_worker_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGTERM in training: exit 75, a checkpoint of a whole step, no manifest; the next attempt ends the run."""
    monkeypatch.setattr(reporter, "WRITE_SECONDS", 0.0)
    caplog.set_level(logging.INFO, "finetune_trainer")
    run = run_file(tmp_path, model, epochs=12, maxSteps=40)
    terminate_at(3, tmp_path)
    assert work_here(run, tmp_path) == 75
    stopped = outcome(tmp_path)
    assert stopped.reason is Reason.PREEMPTED
    assert 3 <= stopped.step < 40
    assert stopped.message == f"stopped at step {stopped.step}"
    assert not (tmp_path / "out/manifest.json").exists()

    assert work_here(run, tmp_path) == 0
    assert outcome(tmp_path).step == 40
    assert f"training from step {stopped.step} of 40" in caplog.text
    assert (tmp_path / "out/manifest.json").exists()


def test_sigterm_before_training_says_so(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop while the model is loaded is prompt, and promises no checkpoint."""
    monkeypatch.setattr(fit, "load_base", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert work_here(run_file(tmp_path, model), tmp_path) == 75
    assert outcome(tmp_path).message.startswith("stopped before the first checkpoint")


def test_a_stop_that_a_library_swallows_is_not_lost(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare `except` around the moment of the signal costs the rest of that phase, not the grace period."""
    real = fit.load_base

    def load(*arguments: Any) -> Any:
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(fit, "load_base", load)
    monkeypatch.setattr(fit, "add_adapter", lambda *_: pytest.fail("it went on to the next phase"))
    assert work_here(run_file(tmp_path, model), tmp_path) == 75
    assert outcome(tmp_path).reason is Reason.PREEMPTED


@pytest.mark.long
def test_two_processes_share_one_run(model: Path, tmp_path: Path) -> None:
    """Two gloo processes under torchrun end in one published adapter and one voice in the log."""
    run = run_file(tmp_path, model).model_copy(update={"processes": 2})
    (tmp_path / "run.json").write_text(run.to_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += [
        "finetune_trainer.worker",
        "--run-file",
        str(tmp_path / "run.json"),
        "--work-dir",
        str(tmp_path / "work"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    ended = outcome(tmp_path)
    assert (ended.reason, ended.step) == (Reason.PUBLISHED, 6)
    assert ended.artifact is not None  # rank 1 has none, and must not be the one that is heard
    assert done.stderr.count("training from step 0 of 6") == 1


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (
            lambda m: (m / "model.safetensors").write_bytes(b"x" * 100),
            Reason.INVALID_CONFIGURATION,
            "model.safetensors",
        ),
        (lambda m: (m / "config.json").write_text("{"), Reason.INVALID_CONFIGURATION, "config.json"),
        (lambda m: (m / "chat_template.jinja").unlink(), Reason.INVALID_CONFIGURATION, "no chat template"),
        (lambda m: (m / "tokenizer.json").unlink(), Reason.INVALID_CONFIGURATION, "tokenizer"),
        (
            lambda m: (m / "config.json").write_text('{"model_type": "nonsense"}'),
            Reason.INVALID_CONFIGURATION,
            "nonsense",
        ),
    ],
)
def test_a_spoilt_model_is_named(
    spoil: Callable[[Path], object], reason: Reason, words: str, model: Path, tmp_path: Path
) -> None:
    """A model that cannot be loaded ends with its reason, the file or the missing thing, and a hint."""
    spoilt = Path(shutil.copytree(model, tmp_path / "model"))
    spoil(spoilt)
    assert work_here(run_file(tmp_path, spoilt), tmp_path) == int(reason.exit_code)
    ended = outcome(tmp_path)
    assert ended.reason is reason
    assert words in ended.message
    assert ended.hint


def test_an_unknown_target_module_is_named(model: Path, tmp_path: Path) -> None:
    """With the names that there are."""
    run = run_file(tmp_path, model, method={"targetModules": ["q_proj", "qkv"]})
    assert work_here(run, tmp_path) == 64
    ended = outcome(tmp_path)
    assert "no linear module named qkv" in ended.message
    assert "q_proj" in ended.hint


def test_an_unknown_error_is_ours(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """InternalError, with type and text of what escaped; CUDA's out-of-memory is the one exception with a reason."""
    errors = {
        ZeroDivisionError("by zero"): (Reason.INTERNAL_ERROR, "ZeroDivisionError: by zero"),
        torch.OutOfMemoryError("tried to allocate 2 GiB"): (Reason.OUT_OF_GPU_MEMORY, "tried to allocate 2 GiB"),
    }
    for error, (reason, words) in errors.items():

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(fit, "load_base", fail)
        assert work_here(run_file(tmp_path, model), tmp_path) == int(reason.exit_code)
        assert words in outcome(tmp_path).message
    assert "Set training.microBatchSize to 1 (now 2)" in outcome(tmp_path).hint


def test_rows_over_length_are_counted_and_all_of_them_are_an_error(model: Path, tmp_path: Path) -> None:
    """No row fits: exit 65, EmptyDataset, with the longest row and the limit; nothing in the output folder."""
    run = run_file(tmp_path, model, maxLength=8)
    assert work_here(run, tmp_path) == 65
    ended = outcome(tmp_path)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    texts = [[message["content"] for message in json.loads(line)["messages"]] for line in lines]
    longest = max(len(f"\nuser\n{q}\n".encode()) + len(f"assistant\n{a}\n".encode()) - 1 + 4 for q, a in texts)
    assert ended.reason is Reason.EMPTY_DATASET
    assert f"the longest has {longest} tokens" in ended.message
    assert "training.maxLength 8" in ended.message
    assert not (tmp_path / "out/adapter_model.safetensors").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the law is about a machine without a GPU")
def test_a_gpu_that_is_not_there_is_told(model: Path, tmp_path: Path) -> None:
    """A job for a GPU never trains on the CPU in silence: it ends as something that another node may heal."""
    code = work_here(run_file(tmp_path, model).model_copy(update={"gpus": 1}), tmp_path)

    outcome = WorkDir(tmp_path / "work").read_outcome()
    assert outcome is not None
    assert (code, outcome.reason) == (69, Reason.GPU_UNAVAILABLE)
    assert "asks for 1 GPUs" in outcome.message
