"""A stopped run of a method with more state than peft saves ends with the very bits of one that was not stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from finetune_trainer.training import fit as fitting
from finetune_trainer.training.run import execute as execute_session
from finetune_trainer.training.stop import Stopped
from tests.trainer.methodcases import CASES, example
from tests.trainer.tinyrun import execute, run_file, session

STEPS = 8
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")]
PLAIN = {"rank": 16, "dropout": "0.05"}
"""The spec's defaults, in place of the tiny run's own: these methods refuse others."""
RUNS: dict[str, dict[str, Any]] = {
    # Its network is not in the adapter file.
    "p-tuning": {"method": {**PLAIN, **example("p-tuning")}, "optimizer": {"type": "AdamW8bit"}},
    # Prunes by what it has seen of the gradients; from step 1 of 8 to step 6.
    "adalora": {"method": example("adalora"), "learningRate": "2e-2"},
    # Its base is another one while training.
    "pissa": {"method": example("pissa")},
    "full": {"method": {**PLAIN, **example("full")}},
    # Rates and decays by parameter.
    "lora-plus": {
        "method": example("lora-plus"),
        "scheduler": "WarmupStableDecay",
        "weightDecay": "0.1",
        "parameterGroups": [
            {"modules": ["layers.0"], "learningRate": "1e-2"},
            {"modules": ["mlp"], "learningRate": "2e-3", "weightDecay": "0.5"},
        ],
    },
}
STOPS = [
    ("p-tuning", 3),
    ("adalora", 3),
    ("lora-plus", 5),
    *(pytest.param(*stop, marks=pytest.mark.soak) for stop in (("p-tuning", STEPS), ("adalora", STEPS))),
    *(pytest.param(*stop, marks=pytest.mark.soak) for stop in (("pissa", 5), ("full", 5), ("full", STEPS))),
]
"""While ranks are pruned, and at the very end."""


Straight = tuple[dict[str, Any], dict[str, torch.Tensor]]


class _StopAt(TrainerCallback):
    """Asks the run to stop within a step, as a signal would."""

    def __init__(self, step: int, stop: Any) -> None:
        self._step, self._stop = step, stop

    def on_substep_end(self, _args: object, state: Any, _control: object, **_: object) -> None:
        if state.global_step + 1 == self._step:
            self._stop.request()


def _published(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a run has published, by the one file that holds them."""
    (path,) = (folder / "out").glob("*.safetensors")
    return load_file(path)


@pytest.fixture(scope="module")
def straight(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """The settings of a run, and what it publishes when nothing happens."""
    settings, folder = RUNS[request.param], tmp_path_factory.mktemp("straight")
    execute(run_file(folder, model, maxSteps=STEPS, **settings), folder / "work")
    return settings, _published(folder)


@pytest.mark.parametrize(("straight", "stop_at"), STOPS, indirect=["straight"], ids=str)
def test_stopped_and_resumed_equals_uninterrupted(
    stop_at: int,
    model: Path,
    straight: Straight,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Same weights, bit for bit, on a fresh disk."""
    settings, expected = straight
    run = run_file(tmp_path, model, maxSteps=STEPS, **settings)
    first, real = session(run, tmp_path / "first"), fitting._trainer

    def stopping(*arguments: Any) -> Any:
        trainer = real(*arguments)
        trainer.add_callback(_StopAt(stop_at, first.stop))
        return trainer

    monkeypatch.setattr(fitting, "_trainer", stopping)
    with pytest.raises(Stopped):
        execute_session(first)
    monkeypatch.undo()
    assert first.reporter.saved_step == stop_at
    assert not (tmp_path / "out/manifest.json").exists()

    execute(run, tmp_path / "second")
    resumed = _published(tmp_path)
    assert resumed.keys() == expected.keys()
    assert [name for name in resumed if not torch.equal(resumed[name], expected[name])] == []


def test_the_runs_are_known_methods() -> None:
    """Their blocks are those of the examples."""
    assert RUNS.keys() - {"full"} <= CASES.keys()
