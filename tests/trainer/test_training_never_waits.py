"""Training goes on while its checkpoints are on their way, however long that takes."""

import functools
from pathlib import Path

import pytest
from transformers import TrainerCallback

from finetune_api.outcome import Reason
from finetune_trainer.storage import open_store
from finetune_trainer.training import fit
from finetune_trainer.training.run import execute
from tests.trainer import tinyrun
from tests.trainer.callbacks import add_to_trainers
from tests.trainer.slow import Slow
from tests.trainer.tinyrun import run_file, session, uploading


class _OpensAtTheEnd(TrainerCallback):
    """Lets the first upload through once training has taken its last step."""

    def __init__(self, store: Slow, outbox: Path) -> None:
        self._store = store
        self._outbox = outbox
        self.waiting = 0
        self.steps_meanwhile = 0

    def on_step_begin(self, _args: object, state: object, _control: object, **_: object) -> None:
        if state.global_step == 1:  # type: ignore[attr-defined]  # the first checkpoint is saved
            assert self._store.begun.wait(60)

    def on_step_end(self, *_: object, **__: object) -> None:
        self.waiting = max(self.waiting, len(list(self._outbox.glob("*"))))
        self.steps_meanwhile += self._store.begun.is_set()

    def on_train_end(self, *_: object, **__: object) -> None:
        self._store.open.set()


def test_no_step_waits_for_an_upload(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One upload lasts from the second step to the last: all steps are taken, with two checkpoints on the disk at most.

    The last checkpoint is in storage when the run ends, and the others were never sent.
    """
    run = run_file(tmp_path, model, checkpoints={"everySteps": 1})
    store = Slow(open_store(run.output.uri, run.storage))
    watch = _OpensAtTheEnd(store, tmp_path / "work/outbox")
    add_to_trainers(monkeypatch, watch)
    with uploading(run, tmp_path / "work", store):  # type: ignore[arg-type]
        assert execute(session(run, tmp_path / "work")).reason is Reason.PUBLISHED
    assert watch.steps_meanwhile == 5
    assert watch.waiting == 2
    stored = {int(path.name.removeprefix("step-")) for path in (tmp_path / "out/.finetune/u1/checkpoints").iterdir()}
    assert stored == {1, 6}


class _Clock(TrainerCallback):
    """Every step takes 40 seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.saved: list[int] = []

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.now += 40

    def on_save(self, _args: object, state: object, _control: object, **_: object) -> None:
        self.saved.append(state.global_step)  # type: ignore[attr-defined]


def test_a_checkpoint_by_the_clock(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`everySeconds` saves beside `everySteps`, counted from the newest checkpoint of either kind."""
    clock = _Clock()
    timed = functools.partial(fit.TimedCheckpointCallback, clock=lambda: clock.now)
    monkeypatch.setattr(fit, "TimedCheckpointCallback", timed)
    add_to_trainers(monkeypatch, clock)
    tinyrun.execute(run_file(tmp_path, model, checkpoints={"everySteps": 4, "everySeconds": 100}), tmp_path / "work")
    assert clock.saved == [3, 4, 6]  # after 120 s; by steps; 80 s later, at the end
