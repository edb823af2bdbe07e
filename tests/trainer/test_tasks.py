"""Every task trains, and what is published measures, with transformers and peft alone, what the run says."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.outcome import Outcome, Reason
from finetune_trainer.errors import RunError
from finetune_trainer.preparation.stage import execute as prepare_stage
from finetune_trainer.training import run as running
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir
from tests.trainer.taskcases import BY_HAND, CASES, EXAMPLES, Plain, TaskCase, load_plainly, run_file
from tests.trainer.taskmodels import save_model
from tests.trainer.tinyrun import execute

pytestmark = pytest.mark.long


@dataclass
class Finished:
    """A finished run of one task."""

    name: str
    case: TaskCase
    folder: Path
    outcome: Outcome
    probe: Any
    plain: Plain


@pytest.fixture(scope="module", params=CASES)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of each task in turn."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp("task")
    seen: dict[str, Any] = {}
    real = running.fit

    def fit(*arguments: Any) -> Any:
        seen["fitted"] = real(*arguments)
        return seen["fitted"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "fit", fit)
        outcome = execute(run_file(folder, case), folder / "work")
    return Finished(request.param, case, folder, outcome, seen["fitted"].probe, load_plainly(case, folder))


def test_every_example_is_run() -> None:
    """Each file in examples/tasks is a case here, but plain text: test_text_continuation.py."""
    assert {"text"} | {case.example for case in CASES.values()} == {path.stem for path in EXAMPLES.glob("*.yaml")}


def test_it_learns(finished: Finished) -> None:
    """The loss of rows that were not trained on falls, and each metric rises, or was perfect before."""
    outcome = finished.outcome
    assert outcome.reason is Reason.PUBLISHED
    assert outcome.loss_before is not None
    assert outcome.loss_after is not None
    assert outcome.loss_after < outcome.loss_before - finished.case.gain
    assert outcome.metrics_after.keys() == outcome.metrics_before.keys() != set()
    for name, value in outcome.metrics_after.items():
        assert value > outcome.metrics_before[name], name


def test_plain_peft_measures_the_same(finished: Finished) -> None:
    """Loss and metrics of the held-out rows, one by one and without pads."""
    rows = finished.case.rows(9, 100)
    loss, metrics = BY_HAND[finished.name](finished.plain, rows)
    assert loss == pytest.approx(finished.outcome.loss_after, abs=1e-4)
    assert metrics == pytest.approx(finished.outcome.metrics_after, abs=1e-9)


def test_plain_peft_computes_what_was_trained(finished: Finished) -> None:
    """The logits of the probe, from the published folder."""
    reloaded = finished.probe.task.logits(finished.plain.model, finished.probe.batch)
    assert torch.allclose(reloaded, finished.probe.trained, atol=2e-4)
    assert not torch.allclose(finished.probe.base, finished.probe.trained, atol=1e-2)


def test_the_head_is_published_with_the_adapter(finished: Finished) -> None:
    """The file holds the head's own weights, whole, beside A and B of linear layers, and nothing else."""
    names = load_file(finished.folder / "out/adapter_model.safetensors")
    others = {name.split(".")[-2] for name in names if "lora_" not in name}
    assert others == set(finished.case.head)
    assert not [name for name in names if "lora_" in name and name.split(".")[-3] in finished.case.head]


def test_labels_have_their_names(finished: Finished) -> None:
    """A user of the folder gets the labels' names: those of the job in its order, else the rows' own, sorted."""
    reviews = ("negative", "neutral", "positive")
    wanted = {"texts": reviews, "texts by a decoder": reviews, "words": ("NUM", "O", "PER")}.get(finished.name)
    if wanted is None:
        assert "accuracy" not in finished.outcome.metrics_after  # a task without labels
        return
    config = finished.plain.model.config
    assert tuple(config.id2label.values()) == wanted
    assert config.label2id == {label: number for number, label in enumerate(wanted)}


def test_manifest_and_card_say_what_was_measured(finished: Finished) -> None:
    """Task, metrics and confusion counts in the manifest; in the card the numbers, and code that loads the folder."""
    out, after = finished.folder / "out", finished.outcome.metrics_after
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert manifest["task"]["type"] == finished.probe.task.kind
    assert manifest["metricsAfter"] == after
    if "accuracy" in after:
        counts = manifest["confusionAfter"]
        total = sum(number for told in counts.values() for number in told.values())
        assert sum(told.get(true, 0) for true, told in counts.items()) / total == pytest.approx(after["accuracy"])
    card = (out / "README.md").read_text()
    assert all(f"{value:.4f} after" in card for value in after.values())
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(out))
    code = code.replace("BASE", str(finished.folder / "model"))
    loaded: dict[str, Any] = {}
    exec(code, loaded)  # noqa: S102 - what a reader of the card would type
    assert type(loaded["base"]).__name__ == type(finished.plain.model.get_base_model()).__name__
    if finished.case.head:
        assert loaded["model"].config.id2label == finished.plain.model.config.id2label


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("words", {"type": "Full"}),
        ("texts by a decoder", {"type": "AdaLoRA", "rank": 8}),
        ("answers", {"type": "QLoRA", "quantization": {"type": "INT8"}}),
        ("targets", {"type": "LoRA", "initialization": "PiSSA"}),
        ("words", {"type": "LoRA", "loraPlusRatio": "4", "useDoRA": True}),
    ],
)
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_other_methods_train_it_too(name: str, method: dict[str, Any], tmp_path: Path) -> None:
    """The loss falls, and the run has found that the published folder computes what was trained."""
    outcome = execute(run_file(tmp_path, CASES[name], {"method": method}, learningRate="5e-3"), tmp_path / "work")
    assert outcome.reason is Reason.PUBLISHED
    assert (outcome.loss_after or 9) < (outcome.loss_before or 0) - 0.1


def test_half_precision_with_checkpointing(tmp_path: Path) -> None:
    """A base in bfloat16 under a head in float32 trains, is measured and verified."""
    more = {"precision": "BFloat16", "gradientCheckpointing": True}
    outcome = execute(run_file(tmp_path, CASES["texts"], **more), tmp_path / "work")
    assert (outcome.loss_after or 9) < (outcome.loss_before or 0) - 0.5


def test_preparing_tells_what_is_wrong_with_the_job(tmp_path: Path) -> None:
    """A module that the model does not have; a task that its architecture does not have. No memory is estimated."""
    run = run_file(tmp_path, CASES["words"], {"method": {"type": "LoRA", "targetModules": ["no_such"]}})
    with pytest.raises(RunError, match="no linear module named no_such"):
        prepare_stage(run, WorkDir(tmp_path / "a"), StopSwitch())
    run = run_file(tmp_path, CASES["targets"], {"model": {"uri": f"file://{save_model('llama', tmp_path / 'llama')}"}})
    with pytest.raises(RunError, match="LlamaConfig") as caught:
        prepare_stage(run, WorkDir(tmp_path / "b"), StopSwitch())
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    outcome = prepare_stage(run_file(tmp_path, CASES["words"]), WorkDir(tmp_path / "c"), StopSwitch())
    assert (outcome.reason, outcome.estimated_memory_bytes) == (Reason.PREPARED, None)


def test_prepared_and_trained_is_trained(tmp_path: Path) -> None:
    """Rows of a task that were put into storage, from a dataset that is gone, give the bits of a run without."""
    for part in ("alone", "staged"):
        (tmp_path / part).mkdir()
        run = run_file(tmp_path / part, CASES["words"], maxSteps=3)
        if part == "staged":
            prepare_stage(run, WorkDir(tmp_path / "first"), StopSwitch())
            for source in ("train.jsonl", "eval.jsonl"):
                (tmp_path / part / source).unlink()
        execute(run, tmp_path / part / "work")
    one, other = (tmp_path / part / "out/adapter_model.safetensors" for part in ("alone", "staged"))
    assert one.read_bytes() == other.read_bytes()
