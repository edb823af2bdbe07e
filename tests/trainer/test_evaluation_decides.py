"""Evaluations end a run early and choose what is published, and a run that was cut off decides as one that was not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from finetune_api.outcome import Outcome
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Evaluation
from finetune_trainer.training import finish as finishing
from finetune_trainer.training import trainer as training
from finetune_trainer.training.run import execute as execute_session
from finetune_trainer.training.stop import Stopped
from tests.trainer.callbacks import add_to_trainers
from tests.trainer.tinyrun import execute, run_file, session, uploading

pytestmark = pytest.mark.long

TRAINING = {"maxSteps": 24, "learningRate": "2e-1", "scheduler": "Constant"}
"""Far too fast: the held-out loss falls until step 8 and then goes up. An epoch has 5 steps."""
EVALUATION = {"everySteps": 2, "earlyStopping": {"patience": 3}, "keepBest": True}
BEST, LAST = 8, 14
CHECKPOINTS = {"everySteps": 3, "keep": 1}
"""That of the best evaluation is deleted long before the run ends."""


class _Notes(TrainerCallback):
    """Notes each step of a session with the adapter's numbers after it, and each checkpoint."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.saved: list[int] = []

    def on_step_end(self, _args: object, state: Any, _control: object, model: Any, **_: object) -> None:
        self.weights[state.global_step] = {
            name.replace(".default", ""): parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def on_save(self, _args: object, state: Any, _control: object, **_: object) -> None:
        self.saved.append(state.global_step)


@dataclass(frozen=True)
class Done:
    """A run that was not cut off."""

    outcome: Outcome
    notes: _Notes
    adapter: bytes
    weights: dict[str, torch.Tensor]
    losses: dict[int, float]
    """Held-out, by step."""


def run_of(folder: Path, model: Path, evaluation: dict[str, Any], **training: Any) -> RunFile:
    """The tiny run with another evaluation."""
    wanted = Evaluation.model_validate({"batchSize": 4, **evaluation})
    return run_file(folder, model, **{**TRAINING, **training}).model_copy(update={"evaluation": wanted})


def losses(work: Path) -> dict[int, float]:
    """Held-out losses by step, as metrics.jsonl has them."""
    entries = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    return {entry["step"]: entry["eval_loss"] for entry in entries if "eval_loss" in entry}


def whole(folder: Path, run: RunFile, monkeypatch: pytest.MonkeyPatch, work: str = "work") -> Done:
    """Take a run to its end and look at what it did."""
    notes = _Notes()
    with monkeypatch.context() as patch:
        add_to_trainers(patch, notes)
        outcome = execute(run, folder / work)
    file = folder / "out/adapter_model.safetensors"
    return Done(outcome, notes, file.read_bytes(), load_file(file), losses(folder / work))


@pytest.fixture(scope="module")
def straight(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run that the others must equal."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        return whole(folder, run_of(folder, model, EVALUATION, checkpoints=CHECKPOINTS), patch)


def test_it_ends_early_and_publishes_the_best(straight: Done) -> None:
    """After three evaluations that are no better; published are the numbers that the adapter had at the best one."""
    found = straight.losses
    assert list(found) == [2, 4, 6, 8, 10, 12, 14]
    assert min(found, key=lambda step: found[step]) == BEST
    assert (straight.outcome.step, max(straight.notes.weights)) == (LAST, LAST)
    expected = straight.notes.weights[BEST]
    assert straight.weights.keys() == expected.keys()
    assert all(torch.equal(straight.weights[name], expected[name]) for name in expected)
    assert not all(torch.equal(straight.weights[name], straight.notes.weights[LAST][name]) for name in expected)
    assert straight.outcome.loss_after == pytest.approx(found[BEST], abs=1e-6)
    assert f"that of step {BEST}" in straight.outcome.message


def test_without_keep_best_the_last_is_published(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And minDelta makes small improvements none: nothing after step 4 is better by more than 0.1."""
    stopping = {"patience": 2, "minDelta": "0.1"}
    done = whole(tmp_path, run_of(tmp_path, model, {"everySteps": 2, "earlyStopping": stopping}), monkeypatch)

    assert done.losses[4] < done.losses[2] - 0.1
    assert done.losses[6] > done.losses[8] > done.losses[4] - 0.1
    assert done.outcome.step == BEST
    assert all(torch.equal(done.weights[name], tensor) for name, tensor in done.notes.weights[BEST].items())


class _StopAt(TrainerCallback):
    """Asks the run to stop within a step, as a signal would."""

    def __init__(self, step: int, stop: Any) -> None:
        self._step, self._stop = step, stop

    def on_substep_end(self, _args: object, state: Any, _control: object, **_: object) -> None:
        if state.global_step + 1 == self._step:
            self._stop.request()


def _stopped_in_step(step: int) -> Callable[[pytest.MonkeyPatch, Any], None]:
    return lambda patch, stop: add_to_trainers(patch, _StopAt(step, stop))


def _stopped_in_evaluation(step: int) -> Callable[[pytest.MonkeyPatch, Any], None]:
    def arrange(patch: pytest.MonkeyPatch, stop: Any) -> None:
        real = training.SupervisedTrainer.evaluate

        def evaluate(self: Any, *arguments: Any, **keywords: Any) -> Any:
            if self.state.global_step == step:
                stop.request()
            return real(self, *arguments, **keywords)

        patch.setattr(training.SupervisedTrainer, "evaluate", evaluate)

    return arrange


def _killed_in_step(step: int) -> Callable[[pytest.MonkeyPatch, Any], None]:
    def arrange(patch: pytest.MonkeyPatch, _: Any) -> None:
        real = training.SupervisedTrainer.training_step

        def train(self: Any, *arguments: Any, **keywords: Any) -> Any:
            if self.state.global_step + 1 == step:
                raise KeyboardInterrupt
            return real(self, *arguments, **keywords)

        patch.setattr(training.SupervisedTrainer, "training_step", train)

    return arrange


def _killed_before_it_publishes(patch: pytest.MonkeyPatch, _: Any) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    patch.setattr(finishing, "publish", die)


@pytest.mark.parametrize(
    ("interrupt", "goes_on_from"),
    [
        (_stopped_in_step(11), 11),  # in the middle of the patience
        (_stopped_in_evaluation(12), 12),  # which counts against the patience, and was not made
        (_stopped_in_evaluation(BEST), BEST),  # the best one
        (_stopped_in_evaluation(LAST), LAST),  # the one that ends the run
        (_killed_in_step(12), 9),
        (_killed_before_it_publishes, LAST),
    ],
    ids=["step-11", "evaluation-12", "best-evaluation", "last-evaluation", "killed-12", "publishing"],
)
def test_cut_off_and_resumed_decides_the_same(
    interrupt: Callable[[pytest.MonkeyPatch, Any], None],
    goes_on_from: int,
    model: Path,
    straight: Done,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a fresh disk: the same last step, the same evaluations, the same bits, and no step taken twice."""
    run = run_of(tmp_path, model, EVALUATION, checkpoints=CHECKPOINTS)
    first = session(run, tmp_path / "first")
    with monkeypatch.context() as patch:
        interrupt(patch, first.stop)
        with uploading(run, tmp_path / "first"), pytest.raises((Stopped, KeyboardInterrupt)):
            execute_session(first)
    assert not (tmp_path / "out/manifest.json").exists()

    done = whole(tmp_path, run, monkeypatch, "second")
    assert sorted(done.notes.weights) == list(range(goes_on_from + 1, LAST + 1))
    assert done.outcome.step == straight.outcome.step
    assert done.losses == straight.losses
    assert done.adapter == straight.adapter


def test_by_epochs(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of every second epoch and of the run; checkpoints at the end of every epoch."""
    done = whole(
        tmp_path,
        run_of(tmp_path, model, {"everyEpochs": 2}, maxSteps=12, checkpoints={"everyEpochs": 1}),
        monkeypatch,
    )

    assert list(done.losses) == [10, 12]
    assert done.notes.saved == [5, 10, 12]


def test_two_processes_decide_as_one(model: Path, tmp_path: Path) -> None:
    """Under torchrun: both end after three evaluations without an improvement, and the best of all is published."""
    evaluation = {**EVALUATION, "earlyStopping": {"patience": 3, "minDelta": "1"}}
    run = run_of(tmp_path, model, evaluation, checkpoints=CHECKPOINTS, learningRate="1").model_copy(
        update={"processes": 2}
    )
    (tmp_path / "run.json").write_text(run.to_json())
    command: list[str | Path] = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "finetune_trainer.worker", "--run-file", tmp_path / "run.json", "--work-dir", tmp_path / "work"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=280, check=False)

    assert done.returncode == 0, done.stderr
    found = losses(tmp_path / "work")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    best = min(found, key=lambda step: found[step])
    assert list(found) == [2, 4, 6, 8]
    assert (manifest["publishedStep"], manifest["steps"]) == (best, 8)
    assert best < 8
    assert manifest["lossAfter"] == pytest.approx(found[best], abs=1e-5)
