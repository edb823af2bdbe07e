"""A run that is stopped and started again ends with the very bits of a run that was not."""

import json
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from finetune_api.outcome import Reason
from finetune_trainer.training.run import execute as execute_session
from finetune_trainer.training.stop import Stopped, StopSwitch
from finetune_trainer.workdir import WorkDir
from tests.trainer.callbacks import add_to_trainers
from tests.trainer.tinyrun import execute, run_file, session, uploading

PACKED = {"packing": True, "maxLength": 128}
"""Two steps an epoch."""


@pytest.fixture(scope="module")
def uninterrupted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, torch.Tensor]]:
    """Weights of a run of 7 steps over 5 steps an epoch (2 when packed), with LoRA dropout and accumulation."""

    @cache
    def weights(**training: Any) -> dict[str, torch.Tensor]:
        folder = tmp_path_factory.mktemp("straight")
        execute(run_file(folder, model, maxSteps=7, **training), folder / "work")
        return load_file(folder / "out/adapter_model.safetensors")

    return weights


class _SignalAt(TrainerCallback):
    """Sends this process SIGTERM in the middle of a step, as the kubelet might."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_substep_end(self, _args: object, state: object, _control: object, **_: object) -> None:
        if state.global_step + 1 == self._step:  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGTERM)


class _Count(TrainerCallback):
    """Counts the steps that this session really took: a run that starts anew ends with the same bits, too."""

    steps = 0

    def on_step_end(self, *_: object, **__: object) -> None:
        self.steps += 1


@pytest.mark.parametrize(("stop_at", "training"), [(3, {}), (5, {}), (7, {}), (3, PACKED)])
def test_stopped_and_resumed_equals_uninterrupted(
    stop_at: int,
    training: dict[str, Any],
    model: Path,
    uninterrupted: Callable[..., dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within an epoch, at its border and at the very end: same weights, bit for bit, on a fresh disk. Packed, too."""
    run = run_file(tmp_path, model, maxSteps=7, **training)
    first = session(run, tmp_path / "first")
    add_to_trainers(monkeypatch, _SignalAt(stop_at))
    old = signal.getsignal(signal.SIGTERM)
    try:
        first.stop.install()
        with uploading(run, tmp_path / "first"), pytest.raises(Stopped):
            execute_session(first)
    finally:
        signal.signal(signal.SIGTERM, old)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.undo()
    assert first.reporter.saved_step == stop_at
    assert not (tmp_path / "out/manifest.json").exists()

    count = _Count()
    add_to_trainers(monkeypatch, count)
    outcome = execute(run, tmp_path / "second")
    assert count.steps == 7 - stop_at
    assert (outcome.reason, outcome.step) == (Reason.PUBLISHED, 7)
    assert WorkDir(tmp_path / "second").read_progress().resumed_from == stop_at  # type: ignore[union-attr]
    resumed, straight = load_file(tmp_path / "out/adapter_model.safetensors"), uninterrupted(**training)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in resumed)
    # metrics.jsonl covers the whole run, not only this session.
    entries = [json.loads(line) for line in (tmp_path / "second/metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "loss" in entry] == [1, 2, 3, 4, 5, 6, 7]


def test_a_stop_waits_only_while_deferred() -> None:
    """Outside of training a request raises at once; inside it waits, and is not forgotten at the end."""
    stop = StopSwitch()
    with pytest.raises(Stopped):
        stop.request()
    stop.request()  # the second signal of an impatient sender changes nothing

    stop, reached = StopSwitch(), []
    with pytest.raises(Stopped):
        _request_while_deferred(stop, reached)
    assert reached


def _request_while_deferred(stop: StopSwitch, reached: list[bool]) -> None:
    with stop.deferred():
        stop.request()
        reached.append(True)
