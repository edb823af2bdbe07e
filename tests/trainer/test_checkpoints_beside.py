"""Checkpoints are written beside the training: one at a time, none lost, none half, and none fails unheard."""

import errno
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.methods.adalora import RankPruning
from finetune_trainer.training import fit as fitting
from finetune_trainer.training import hooks, snapshot
from finetune_trainer.training import trainer as training
from finetune_trainer.training.best import BestModel
from finetune_trainer.training.goal import Goal
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.run import execute as execute_session
from finetune_trainer.training.saving import written_beside
from finetune_trainer.training.snapshot import Snapshot
from finetune_trainer.training.stop import Stopped
from finetune_trainer.training.sums import CutShort
from tests.trainer.callbacks import add_to_trainers
from tests.trainer.tinyrun import execute, run_file, session, uploading

BLINK = 0.3
"""Seconds that a write is held up, to lose it where nobody waits for it."""


class _At(TrainerCallback):
    """Does something at the end of each step."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act
        self.step = 0

    def on_step_end(self, _args: object, state: Any, _control: object, **_: object) -> None:
        self.step = state.global_step
        self._act(self.step)


def _before_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Have `act` called with the step of every checkpoint before it is written, where it is written."""
    real = Snapshot.write

    def write(self: Snapshot, folder: Path) -> None:
        act(self.state.global_step)
        real(self, folder)

    monkeypatch.setattr(Snapshot, "write", write)


def _offered(work: Path) -> list[str]:
    return sorted(path.name for path in (work / "outbox").glob("step-*"))


def test_steps_are_taken_while_a_checkpoint_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of step 3 lasts until step 5 is done, and the run ends well."""
    goes_on = threading.Event()
    add_to_trainers(monkeypatch, _At(lambda step: goes_on.set() if step == 5 else None))
    waited: list[bool] = []
    _before_write(monkeypatch, lambda step: waited.append(goes_on.wait(20)) if step == 3 else None)
    outcome = execute(run_file(tmp_path, model, checkpoints={"everySteps": 3}), tmp_path / "work")
    assert (waited, outcome.reason) == ([True], Reason.PUBLISHED)


def test_one_write_and_one_snapshot_at_a_time(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves come faster than the disk writes: each waits for the last, none is left out, and memory holds one copy."""
    real, written = Snapshot.of, list[int]()
    taken: list[weakref.ref[Snapshot]] = []
    writing = threading.Semaphore(1)

    def of(trainer: Any) -> Snapshot:
        assert writing.acquire(blocking=False)
        writing.release()
        end = time.monotonic() + 20
        while any(seen() for seen in taken):  # the thread is just letting go of it
            assert time.monotonic() < end
        copied = real(trainer)
        taken.append(weakref.ref(copied))
        return copied

    def slowly(step: int) -> None:
        assert writing.acquire(blocking=False)
        time.sleep(BLINK)
        written.append(step)
        writing.release()

    monkeypatch.setattr(Snapshot, "of", of)
    _before_write(monkeypatch, slowly)
    execute(run_file(tmp_path, model, checkpoints={"everySteps": 1}), tmp_path / "work")
    assert written == [1, 2, 3, 4, 5, 6]


def _cut_short(*_: object) -> None:
    raise CutShort


@pytest.mark.parametrize("ending", ["end", "stop", "evaluation", "error"])
def test_whatever_ends_a_run_waits_for_its_last_checkpoint(
    ending: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is offered when the run is over, and of the last step; an error of the training stays the run's reason."""
    run = run_file(tmp_path, model, checkpoints={"everySteps": 3})
    if ending == "evaluation":  # a stop cuts it short, in the middle of training
        run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"every_steps": 4})})
        monkeypatch.setattr(training, "measure", _cut_short)
    first = session(run, tmp_path / "work")

    def act(step: int) -> None:
        if step == 4 and ending == "stop":
            first.stop.request()
        if step == 4 and ending == "error":
            raise RunError(Reason.DIVERGED, "the loss went up")

    real = fitting._trainer

    def acting(*arguments: Any) -> Any:  # before the run's own callbacks: a stop is seen in the same step
        trainer = real(*arguments)
        trainer.callback_handler.callbacks.insert(0, _At(act))
        return trainer

    monkeypatch.setattr(fitting, "_trainer", acting)
    _before_write(monkeypatch, lambda _: time.sleep(BLINK))
    ends = {"end": None, "stop": Stopped, "evaluation": Stopped, "error": RunError}[ending]
    if ends is None:
        execute_session(first)
    else:
        with pytest.raises(ends):
            execute_session(first)
    saved = {"end": 6, "stop": 4, "evaluation": 4, "error": 3}[ending]
    assert (_offered(tmp_path / "work"), first.reporter.saved_step) == ([f"step-{saved:08d}"], saved)


@pytest.mark.parametrize(("fails_at", "ends_by"), [(3, 5), (6, 6)])
def test_a_write_that_fails_ends_the_run(
    fails_at: int, ends_by: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next step that begins after it has failed, not at the next save; at the last step, before all else."""

    def fail(step: int) -> None:
        if step == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "work"))

    over = threading.Event()
    steps = _At(lambda step: over.wait(BLINK) and None if step > fails_at else None)
    add_to_trainers(monkeypatch, steps)
    _before_write(monkeypatch, fail)
    first = session(run_file(tmp_path, model, checkpoints={"everySteps": 3}), tmp_path / "work")
    with pytest.raises(OSError, match="No space left"):
        execute_session(first)
    assert fails_at <= steps.step <= ends_by
    assert first.reporter.saved_step == (fails_at - 3)
    assert not (tmp_path / "out/adapter_model.safetensors").exists()


def test_a_write_that_fails_is_a_stop_that_failed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped run whose checkpoint does not fit on the disk does not say that it was saved."""

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    first = session(run_file(tmp_path, model, checkpoints={"everySteps": 30}), tmp_path / "work")
    add_to_trainers(monkeypatch, _At(lambda step: first.stop.request() if step == 2 else None))
    _before_write(monkeypatch, fail)
    with pytest.raises(OSError, match="No space left"):
        execute_session(first)
    assert first.reporter.saved_step == 0


@pytest.mark.parametrize("cut", [1, 2])
def test_what_is_cut_off_has_no_name(cut: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two files of the second checkpoint: neither its folder nor an offer is there; the first one still is."""
    real, calls = torch.save, [0]

    def save(*arguments: Any) -> None:
        calls[0] += 1
        if calls[0] == 2 + cut:
            raise OSError(errno.EIO, "gone")
        real(*arguments)

    monkeypatch.setattr(snapshot.torch, "save", _only_beside(save, real))
    with pytest.raises(OSError, match="gone"):
        execute_session(session(run_file(tmp_path, model, checkpoints={"everySteps": 2}), tmp_path / "work"))
    assert [path.name for path in (tmp_path / "work/checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]
    assert _offered(tmp_path / "work") == ["step-00000002"]


def _only_beside(save: Callable[..., None], real: Callable[..., None]) -> Callable[..., None]:
    """The main thread saves random states, the writer optimizer and schedule."""

    def chosen(*arguments: Any) -> None:
        (real if threading.current_thread() is threading.main_thread() else save)(*arguments)

    return chosen


def test_callbacks_of_others_find_what_they_hear_of(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback of the user that does something at a save is called when the checkpoint is on the disk."""
    found: list[list[str]] = []

    class Looks(TrainerCallback):
        def on_save(self, args: Any, state: Any, _control: object, **_: object) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            found.append(sorted(path.name for path in folder.glob("*.pt")))

    monkeypatch.setattr(fitting, "callbacks", lambda _: [hooks.Guarded(Looks(), pytest.fail)])
    _before_write(monkeypatch, lambda _: time.sleep(BLINK))
    run = run_file(tmp_path, model, checkpoints={"everySteps": 3})
    with uploading(run, tmp_path / "work"):
        execute_session(session(run, tmp_path / "work"))
    assert found == [["optimizer.pt", "scheduler.pt"]] * 2


def test_what_adalora_remembers_is_of_that_step(tmp_path: Path) -> None:
    """Its running means are updated in place; what is written later is what they were."""
    mean = torch.arange(6.0)
    allocator = SimpleNamespace(ipt={"layer": mean}, exp_avg_ipt={}, exp_avg_unc={})
    finish = RankPruning(SimpleNamespace(base_model=SimpleNamespace(rankallocator=allocator))).freeze(None)
    mean.mul_(2)
    finish(tmp_path)
    (written,) = load_file(tmp_path / "adalora.safetensors").values()
    assert torch.equal(written, torch.arange(6.0))


def test_which_weights_are_best_is_of_that_step(model: Path, tmp_path: Path) -> None:
    """An evaluation that comes while a checkpoint is being written does not change whose weights were the best."""
    history = [{"eval_loss": 1.0, "step": 2}]
    best = BestModel(Goal.of(run_file(tmp_path, model).evaluation), tmp_path / "best")
    finish = best.freeze(SimpleNamespace(global_step=2, log_history=history))
    history.append({"eval_loss": 0.5, "step": 4})
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2/adapter_model.safetensors").write_bytes(b"of step 2")
    finish(tmp_path / "checkpoint-2")
    assert (tmp_path / "best/adapter_model.safetensors").read_bytes() == b"of step 2"


PLAIN = {"rank": 16, "dropout": "0.05"}


@pytest.mark.parametrize(
    ("beside", "method", "strategy", "processes", "nodes"),
    [
        (True, {}, "DDP", 1, 1),
        (True, {}, "DDP", 2, 1),
        (True, {}, "ZeRO3", 1, 1),  # a lone process shares nothing
        (False, {}, "ZeRO2", 2, 1),
        (False, {}, "ZeRO3", 2, 1),
        (False, {"type": "LoRA"}, "FSDP", 2, 1),
        (False, {}, "DDP", 1, 2),
        (False, {**PLAIN, "type": "Full"}, "DDP", 1, 1),
        (False, {**PLAIN, "type": "PTuning", "virtualTokens": 8}, "DDP", 1, 1),
    ],
)
def test_which_runs_write_beside(
    beside: bool, method: dict[str, Any], strategy: str, processes: int, nodes: int, model: Path, tmp_path: Path
) -> None:
    """Those whose trained state is whole in one process, small, and read from memory without a computation."""
    run = run_file(tmp_path, model, method=method, parallelism={"strategy": strategy}, batchSize=8)
    run = run.model_copy(update={"processes": processes, "nodes": nodes})
    assert written_beside(run, Processes(0, processes * nodes, 0, nodes)) is beside
