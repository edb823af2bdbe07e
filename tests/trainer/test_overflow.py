"""float16: a step whose scaled gradient overflows is left out and told; only many in a row end the run.

No GPU is needed: torch scales and computes in float16 on a CPU as well. accelerate does not, and is told to here.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.training import fit as fitting
from finetune_trainer.training import run as running
from finetune_trainer.training import trainer as training
from tests.trainer.callbacks import Steps
from tests.trainer.tinyrun import execute, run_file, session, uploading


class _Scales(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Notes the loss scale after each step, and sets one where asked to."""

    def __init__(self, scaler: Any, raised: dict[int, float]) -> None:
        self._scaler, self._raised = scaler, raised
        self.after: list[float] = []

    def on_step_begin(self, _args: object, state: Any, _control: object, **_: object) -> None:
        if scale := self._raised.get(state.global_step + 1):
            self._scaler.load_state_dict({**self._scaler.state_dict(), "scale": scale})

    def on_step_end(self, *_: object, **__: object) -> None:
        self.after.append(self._scaler.get_scale())


def _in_float16(
    monkeypatch: pytest.MonkeyPatch, first: float, raised: dict[int, float] | None = None
) -> tuple[_Scales, Steps]:
    """Let the next run compute in float16 with a loss scaled by `first`, and by `raised` from those steps on."""
    real, scaler, steps = fitting._trainer, torch.amp.GradScaler("cpu", init_scale=first), Steps()
    scales = _Scales(scaler, raised or {})

    def trainer(*arguments: Any) -> Any:
        made = real(*arguments)
        made.accelerator.scaler, made.accelerator.native_amp = scaler, True
        made.add_callback(steps)
        made.add_callback(scales)
        return made

    monkeypatch.setattr(fitting, "_trainer", trainer)
    monkeypatch.setattr(running, "check_configuration", lambda _: None)  # it wants a GPU
    return scales, steps


def _left_out(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [int(found[1]) for text in caplog.messages if (found := re.search(r"step (\d+) is left out", text))]


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamWFused"])
@pytest.mark.parametrize("clip", ["1", "0"])
def test_an_overflow_costs_one_step(
    optimizer: str, clip: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Steps at a scale too large leave the weights alone and halve it; the others move them; the run is published."""
    caplog.set_level(logging.INFO, "finetune_trainer")
    raised = {1: 2.0**30, 15: 2.0**26}
    scales, steps = _in_float16(monkeypatch, 2.0**10, raised)
    more = {"optimizer": {"type": optimizer}, "maxGradientNorm": clip, "checkpoints": {"everySteps": 1}}
    run = run_file(tmp_path, model, precision="Float16", maxSteps=30, epochs=99, **more)
    assert execute(run, tmp_path / "work").reason is Reason.PUBLISHED

    left_out = _left_out(caplog)
    assert {1, 15} <= set(left_out) < set(range(1, 31))
    assert "its gradient overflowed float16; the loss is scaled by 5.36871e+08 from here on" in caplog.text
    for step in range(1, 31):
        assert _same(steps.weights[step - 1], steps.weights[step]) is (step in left_out), step
        assert all(torch.isfinite(weight).all() for weight in steps.weights[step].values())
    for step in left_out:
        before = raised.get(step, scales.after[step - 2])
        assert scales.after[step - 1] == before / 2
    entries = (tmp_path / "work/metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line, parse_constant=pytest.fail) for line in entries]  # JSON has no Infinity
    assert [entry["step"] for entry in logged if "grad_norm" not in entry and "loss" in entry] == left_out
    assert logged[-1]["loss"] < logged[0]["loss"]


def test_a_gradient_that_no_scale_helps(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NonFiniteLoss after so many in a row, with the rows of the last; the weights are good, and those of the start."""
    monkeypatch.setattr(training, "MOST", 5)
    _, steps = _in_float16(monkeypatch, 2.0**10, dict.fromkeys(range(4, 99), 2.0**60))
    run = run_file(tmp_path, model, precision="Float16", maxSteps=30, epochs=99)
    with uploading(run, tmp_path / "work"), pytest.raises(RunError) as caught:
        running.execute(session(run, tmp_path / "work"))

    assert caught.value.reason is Reason.NON_FINITE_LOSS
    said = r"the gradient norm of step 8 and of the 4 before it is (nan|inf) \(.*\), in (train\.jsonl:\d+, ){3}"
    assert re.match(said, caught.value.message), caught.value.message
    assert len(steps.weights) == 7
    assert _same(steps.weights[3], steps.weights[-1])


def test_a_run_of_nothing_but_overflows_is_no_result(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short: three steps that are all left out publish nothing."""
    _in_float16(monkeypatch, 2.0**60)
    run = run_file(tmp_path, model, precision="Float16", maxSteps=3)
    with uploading(run, tmp_path / "work"), pytest.raises(RunError, match="of step 3 and of the 2 before") as caught:
        running.execute(session(run, tmp_path / "work"))
    assert caught.value.reason is Reason.NON_FINITE_LOSS


def test_adalora_learns_nothing_from_an_overflow(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It weighs ranks by gradients: infinite ones would decide for the rest of the run which are pruned."""
    caplog.set_level(logging.INFO, "finetune_trainer")
    _in_float16(monkeypatch, 2.0**10, {2: 2.0**26})
    run = run_file(tmp_path, model, precision="Float16", method={"type": "AdaLoRA", "rank": 4}, maxSteps=20, epochs=99)
    kept: list[Any] = []
    real = fitting.keeper
    monkeypatch.setattr(fitting, "keeper", lambda *arguments: kept.append(real(*arguments)) or kept[-1])
    assert execute(run, tmp_path / "work").reason is Reason.PUBLISHED

    assert 2 in _left_out(caplog)
    memory = kept[0]._memory()
    assert memory
    assert all(torch.isfinite(tensor).all() for _, _, tensor in memory)


def test_a_norm_that_is_infinite_by_itself_ends_the_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number of the gradient is finite, their squares are not: the scaler would let that reach the weights."""
    _, steps = _in_float16(monkeypatch, 1.0)

    class Large(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, _args: object, state: Any, _control: object, model: Any, **_: object) -> None:
            if state.global_step == 2:
                next(p for p in model.parameters() if p.requires_grad).register_hook(lambda g: g * 0 + 1e38)

    with_scaler = fitting._trainer

    def trainer(*arguments: Any) -> Any:
        made = with_scaler(*arguments)
        made.add_callback(Large())
        return made

    monkeypatch.setattr(fitting, "_trainer", trainer)
    run = run_file(tmp_path, model, precision="Float16", maxGradientNorm="0")
    with uploading(run, tmp_path / "work"), pytest.raises(RunError, match="gradient norm of step 3 is inf"):
        running.execute(session(run, tmp_path / "work"))
    assert len(steps.weights) == 2
