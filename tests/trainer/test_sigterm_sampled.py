"""SIGTERM at some seeded moments of a run, in one process: a sample of what `make soak` does at a hundred."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.publish import Outbox
from finetune_trainer.training import fit, trainer
from finetune_trainer.training.scores import Scores
from finetune_trainer.workdir import WorkDir
from finetune_trainer.worker import main
from tests.trainer.tinyrun import execute, run_file, uploading

pytestmark = pytest.mark.long

STEPS = 4
PLACES: dict[str, tuple[Any, str, int]] = {
    "load": (fit, "load_base", 1),
    "step": (trainer.SupervisedTrainer, "training_step", 2 * STEPS),
    "evaluate": (trainer.SupervisedTrainer, "compute_loss", 2 * STEPS),
    "save": (trainer.SupervisedTrainer, "_save_checkpoint", 2),
    "offer": (Outbox, "put", 2),
}
"""Where a run comes by, and how often."""
CHANCE = random.Random(4)
MOMENTS = [(place, CHANCE.randint(1, PLACES[place][2])) for place in CHANCE.sample(sorted(PLACES), 2)]


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what the worker does to the process it has for itself otherwise."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def straight(model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of a run without any signal."""
    folder = tmp_path_factory.mktemp("straight")
    execute(_run(folder, model), folder / "work")
    return (folder / "out/adapter_model.safetensors").read_bytes()


def _run(folder: Path, model: Path) -> Any:
    run = run_file(folder, model, maxSteps=STEPS, checkpoints={"everySteps": 2})
    return run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"every_steps": 2})})


def _work_here(run: Any, folder: Path, work: str) -> int:
    (folder / "run.json").write_text(run.to_json())
    with uploading(run, folder / work):
        return main(["--run-file", str(folder / "run.json"), "--work-dir", str(folder / work)])


def _signal_at(monkeypatch: pytest.MonkeyPatch, place: str, number: int) -> None:
    owner, name, _ = PLACES[place]
    real, left = getattr(owner, name), [number]

    def signalling(*arguments: Any, **keywords: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **keywords)

    monkeypatch.setattr(owner, name, signalling)


@pytest.mark.parametrize(("place", "number"), MOMENTS)
def test_stopped_anywhere(
    place: str, number: int, model: Path, straight: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 75, and the next attempt ends with the very bits of a run that was not stopped."""
    run = _run(tmp_path, model)
    with monkeypatch.context() as patch:
        _signal_at(patch, place, number)
        assert _work_here(run, tmp_path, "first") == 75
    assert _work_here(run, tmp_path, "second") == 0
    assert (tmp_path / "out/adapter_model.safetensors").read_bytes() == straight


def test_an_evaluation_is_cut_short(
    model: Path, straight: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop in the middle of an evaluation does not wait for its end, and loses no step that was done."""
    run = _run(tmp_path, model)
    batches = []
    real = trainer.measure

    def evaluate(task: Any, model: Any, rows: Any, collator: Any, _: int, processes: Any, *rest: Any) -> Scores:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(task, model, rows, collator, 1, processes, batches.append, rest[1])

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "measure", evaluate)
        assert _work_here(run, tmp_path, "first") == 75
    outcome = WorkDir(tmp_path / "first").read_outcome()
    assert outcome is not None
    assert outcome.step == 2
    assert batches == []
    assert _work_here(run, tmp_path, "second") == 0
    assert (tmp_path / "out/adapter_model.safetensors").read_bytes() == straight
