"""Trackers get the numbers of a run, and can do nothing to it."""

import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from finetune_api.names import Stage
from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Storage, Tracker
from finetune_trainer.errors import RunError
from finetune_trainer.preparation.stage import execute as prepare_stage
from finetune_trainer.storage import open_store
from finetune_trainer.supervisor import mirror as mirroring
from finetune_trainer.supervisor.mirror import Mirror
from finetune_trainer.training import trackers as tracking
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.session import Session
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.training.trackers import trackers
from finetune_trainer.workdir import WorkDir
from tests.trainer.tinyrun import execute, run_file, session

PARTS: dict[str, dict[str, Any]] = {
    "MLflow": {"uri": "http://127.0.0.1:9/", "project": "support"},
    "WandB": {"project": "team/support"},
    "Trackio": {},
}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())


def tracked(run: RunFile, *kinds: str) -> RunFile:
    """The run with these trackers."""
    made = [Tracker.model_validate({"type": kind, **PARTS.get(kind, {})}) for kind in kinds]
    return run.model_copy(update={"training": run.training.model_copy(update={"trackers": made})})


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """What the event files of a folder hold: records of a length, its checksum, the event, and its checksum."""
    found = {}
    for file in sorted(folder.rglob("events.*")):
        data, place = file.read_bytes(), 0
        while place < len(data):
            (size,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + size])
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            place += size + 16
    return found


def logged(work: Path) -> dict[tuple[str, int], float]:
    """metrics.jsonl, with the names that transformers gives to TensorBoard."""
    found = {}
    for line in (work / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for name, value in entry.items():
            if name not in ("step", "epoch"):
                tag = f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"
                found[tag, entry["step"]] = value
    return found


@pytest.mark.long
def test_tensorboard_gets_what_is_logged(model: Path, tmp_path: Path) -> None:
    """Through PID 1: its event files below the output have every number of metrics.jsonl at its step."""
    run = run_file(tmp_path, model, maxSteps=4)
    run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"every_steps": 2})})
    (tmp_path / "run.json").write_text(tracked(run, "TensorBoard").to_json())
    command = [sys.executable, "-m", "finetune_trainer", "--run-file", tmp_path / "run.json", "--port", "0"]
    done = subprocess.run(
        [*command, "--work-dir", tmp_path / "work", "--termination-log", tmp_path / "end"],
        text=True,
        capture_output=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    shutil.rmtree(tmp_path / "work/tensorboard")  # what counts is in storage
    found, expected = scalars(tmp_path / "out/.finetune/u1/tensorboard"), logged(tmp_path / "work")
    assert {tag for tag, _ in expected} >= {"train/loss", "train/learning_rate", "eval/loss"}
    assert len(expected) > 12
    for place, value in expected.items():
        assert found[place] == pytest.approx(value, rel=1e-6), place


@pytest.mark.long
def test_a_tracker_that_fails_is_said_once(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run is published all the same. Its folder is a file, so that TensorBoard can write nothing."""
    caplog.set_level(logging.INFO, "finetune_trainer")
    (tmp_path / "work").mkdir()
    (tmp_path / "work/tensorboard").write_text("in the way")
    outcome = execute(tracked(run_file(tmp_path, model, maxSteps=3), "TensorBoard"), tmp_path / "work")

    assert (outcome.reason, outcome.step) == (Reason.PUBLISHED, 3)
    said = [message for message in caplog.messages if "left alone from here on" in message]
    assert said == ["tiny: the tracker TensorBoard failed (NotADirectoryError) and is left alone from here on"]


class _Fails:
    """Works until step 2, then never again; counts the calls."""

    calls = 0

    def on_log(self, _args: object, state: Any, *_: object, **__: object) -> None:
        self.calls += 1
        if state.global_step >= 2:
            raise ConnectionError("the server is gone")


@pytest.mark.long
def test_a_tracker_that_fails_in_the_middle(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not called again: a server that is down shall not cost its timeout at every step."""
    made = _Fails()
    made_callback = type("Made", (tracking.TensorBoardCallback,), {"on_log": made.on_log})
    monkeypatch.setitem(tracking._CALLBACKS, tracking.TrackerType.TENSORBOARD, made_callback)
    outcome = execute(tracked(run_file(tmp_path, model, maxSteps=4), "TensorBoard"), tmp_path / "work")

    assert outcome.reason is Reason.PUBLISHED
    assert made.calls == 2


@pytest.mark.parametrize("kind", ["MLflow", "WandB", "Trackio"])
def test_a_missing_package_is_refused_in_prepare(kind: str, model: Path, tmp_path: Path) -> None:
    """With the package's name and the remedy; these three are not in our image."""
    run = tracked(run_file(tmp_path, model), kind).model_copy(update={"stage": Stage.PREPARE})
    with pytest.raises(RunError) as caught:
        prepare_stage(run, WorkDir(tmp_path / "work"), StopSwitch())

    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert f"{kind} needs the package {kind.lower()}" in caught.value.message
    assert "docs/extensions.md" in caught.value.hint


def test_only_the_first_process_reports(model: Path, tmp_path: Path) -> None:
    """The others have no tracker at all."""
    first = session(tracked(run_file(tmp_path, model), "TensorBoard"), tmp_path / "work")
    second = Session(first.run, first.work, first.stop, Processes(1, 2), first.reporter)

    assert len(trackers(first)) == 1
    assert trackers(second) == []


def test_where_the_clients_report_to() -> None:
    """By the variables that they read; nothing is written beside the scratch folder."""
    found = {
        kind: tracking.environment(Tracker.model_validate({"type": kind, **parts}), WorkDir(Path("/w")), "u1")
        for kind, parts in PARTS.items()
    }

    assert found["MLflow"]["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9/"
    assert found["MLflow"]["MLFLOW_EXPERIMENT_NAME"] == "support"
    assert (found["WandB"]["WANDB_PROJECT"], found["WandB"]["WANDB_RUN_ID"]) == ("support", "u1")
    assert found["WandB"]["WANDB_ENTITY"] == "team"
    alone = tracking.environment(Tracker(type="WandB", project="support"), WorkDir(Path("/w")), "u1")
    assert (alone["WANDB_PROJECT"], "WANDB_ENTITY" in alone) == ("support", False)  # a Secret may name it
    assert "WANDB_BASE_URL" not in found["WandB"]
    assert found["Trackio"]["TRACKIO_DIR"].startswith("/w/")


@pytest.fixture
def mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A folder that grows, and its copy in storage."""
    monkeypatch.setattr(mirroring, "EVERY_SECONDS", 0.01)
    yield tmp_path / "here", tmp_path / "there"
    assert not [thread for thread in threading.enumerate() if thread.name == "mirror"]


def test_the_copy_is_whole_at_the_end(mirrored: tuple[Path, Path]) -> None:
    """However often a file grew meanwhile; what an earlier run left here does not count."""
    here, there = mirrored
    here.mkdir()
    (here / "old").write_text("of an earlier run")
    mirror = Mirror(here, open_store(f"file://{there}", Storage()), "t/")
    mirror.start()
    (here / "sub").mkdir(parents=True)
    for number in range(200):
        with (here / "sub/events").open("a") as file:
            file.write(f"{number}\n")
    mirror.finish(hurry=False)

    assert (there / "t/sub/events").read_text() == "".join(f"{number}\n" for number in range(200))
    assert not (there / "t/old").exists()


def test_storage_that_fails_is_said_once(mirrored: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    """And tried again: once it works, all is there."""
    here, there = mirrored
    there.mkdir()
    (there / "t").write_text("in the way")
    mirror = Mirror(here, open_store(f"file://{there}", Storage()), "t/")
    mirror.start()
    here.mkdir()
    (here / "events").write_text("numbers")
    while not caplog.messages:
        threading.Event().wait(0.01)
    threading.Event().wait(0.1)
    (there / "t").unlink()
    mirror.finish(hurry=False)

    assert len(caplog.messages) == 1
    assert (there / "t/events").read_text() == "numbers"
