"""The quality gate: a result that is not good enough is not published, and its reason has the numbers."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcome import Outcome, Reason
from finetune_api.v1alpha1 import Evaluation
from finetune_trainer.errors import RunError
from finetune_trainer.training.gate import check_gate, check_measured
from finetune_trainer.training.scores import Scores
from finetune_trainer.workdir import WorkDir
from finetune_trainer.worker import main
from tests.trainer.tinyrun import run_file, uploading

BEFORE = Scores(2.0, {"accuracy": 0.5, "taste": 0.25})


@pytest.mark.parametrize(
    ("gate", "metric", "after", "fails"),
    [
        ({"mustImprove": True}, "Loss", Scores(1.5, {}), None),
        ({"mustImprove": True}, "Loss", Scores(2.0, {}), "the loss was 2 before training and is 2"),
        ({"mustImprove": True}, "Loss", Scores(2.25, {}), "the loss was 2 before training and is 2.25"),
        ({"mustImprove": True}, "taste", Scores(9.0, {"taste": 0.5}), None),
        ({"mustImprove": True}, "taste", Scores(1.0, {"taste": 0.25}), "the taste was 0.25 before training"),
        ({"maxLoss": "1.5"}, "Loss", Scores(1.5, {}), None),
        ({"maxLoss": "1.5"}, "Loss", Scores(1.75, {}), "the loss is 1.75, over maxLoss 1.5"),
        ({"maxLoss": "9"}, "Loss", Scores(float("nan"), {}), "the loss is nan"),
        ({"minAccuracy": "0.75"}, "Loss", Scores(9.0, {"accuracy": 0.75}), None),
        (
            {"minAccuracy": "0.75"},
            "Loss",
            Scores(1.0, {"accuracy": 0.5}),
            "the accuracy is 0.5, under minAccuracy 0.75",
        ),
    ],
)
def test_each_bound(gate: dict[str, Any], metric: str, after: Scores, fails: str | None) -> None:
    """A bound that is met exactly holds; an equal score is no improvement."""
    evaluation = Evaluation.model_validate({"gate": gate, "metric": metric})
    if fails is None:
        check_gate(evaluation, BEFORE, after)
        return
    with pytest.raises(RunError) as caught:
        check_gate(evaluation, BEFORE, after)
    assert caught.value.reason is Reason.QUALITY_GATE_FAILED
    assert fails in caught.value.message


def test_every_bound_that_fails_is_named() -> None:
    """And the outcome has both losses, for the status."""
    gate = {"mustImprove": True, "maxLoss": "1", "minAccuracy": "0.9"}
    with pytest.raises(RunError) as caught:
        check_gate(Evaluation.model_validate({"gate": gate}), BEFORE, Scores(3.0, {"accuracy": 0.1}))

    outcome = caught.value.outcome(7)
    assert all(word in outcome.message for word in ("mustImprove", "maxLoss 1", "minAccuracy 0.9"))
    assert (outcome.loss_before, outcome.loss_after, outcome.step) == (2.0, 3.0, 7)


def test_no_gate_lets_all_pass() -> None:
    """Also where nothing was evaluated."""
    check_gate(Evaluation(), BEFORE, Scores(9.0))
    check_gate(Evaluation(), None, None)


def test_an_accuracy_that_nothing_measures() -> None:
    """Is refused by the evaluation before training, not after hours of it."""
    gate = Evaluation.model_validate({"gate": {"minAccuracy": "0.9"}}).gate
    with pytest.raises(RunError) as caught:
        check_measured(gate, Scores(2.0))

    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert "evaluation.gate.minAccuracy" in caught.value.message


@pytest.fixture
def _own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what the worker does to the process it has for itself otherwise."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _work(folder: Path, model: Path, gate: dict[str, Any]) -> tuple[int, Outcome]:
    evaluation = Evaluation.model_validate({"batchSize": 4, "gate": gate})
    run = run_file(folder, model, maxSteps=3).model_copy(update={"evaluation": evaluation})
    (folder / "run.json").write_text(run.to_json())
    with uploading(run, folder / "work"):
        code = main(["--run-file", str(folder / "run.json"), "--work-dir", str(folder / "work")])
    outcome = WorkDir(folder / "work").read_outcome()
    assert outcome is not None
    return code, outcome


@pytest.mark.long
@pytest.mark.usefixtures("_own_process")
def test_a_run_that_fails_publishes_nothing(model: Path, tmp_path: Path) -> None:
    """Exit 85; what was at the target stays, byte for byte, and the last checkpoint lies below .finetune/."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text("of an earlier job")
    code, outcome = _work(tmp_path, model, {"maxLoss": "0.01", "mustImprove": True})

    assert (code, outcome.reason, outcome.step) == (85, Reason.QUALITY_GATE_FAILED, 3)
    assert outcome.loss_after is not None
    assert f"the loss is {outcome.loss_after:.6g}, over maxLoss 0.01" in outcome.message
    assert "mustImprove" not in outcome.message
    published = [path.name for path in (tmp_path / "out").iterdir() if path.is_file()]
    assert published == ["manifest.json"]
    assert (tmp_path / "out/manifest.json").read_text() == "of an earlier job"
    assert list((tmp_path / "out/.finetune/u1/checkpoints").glob("step-00000003/adapter_model.safetensors"))


@pytest.mark.long
@pytest.mark.usefixtures("_own_process")
def test_a_run_that_holds_is_published(model: Path, tmp_path: Path) -> None:
    """The gate is in nobody's way."""
    code, outcome = _work(tmp_path, model, {"maxLoss": "9", "mustImprove": True})

    assert (code, outcome.reason) == (0, Reason.PUBLISHED)
    assert (tmp_path / "out/adapter_model.safetensors").exists()
