"""Code of the user's own image takes part where the job names it, and nowhere else: docs/extensions.md."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.names import Stage
from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Evaluation, Extensions
from finetune_trainer.errors import RunError
from finetune_trainer.extensions import check_extensions, check_image
from finetune_trainer.preparation.stage import execute as prepare_stage
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir
from tests.trainer.tinyrun import execute, run_file

ROOT = Path(__file__).parents[2]
MODULE = "example_extension"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built and installed into a folder of its own, as pip would into an image."""
    target = tmp_path_factory.mktemp("site-packages")
    uv = shutil.which("uv") or ROOT / ".tools/bin/uv"
    command = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", sys.executable]
    source = shutil.copytree(ROOT / "examples/extension", tmp_path_factory.mktemp("source") / "extension")
    subprocess.run([*command, "--target", target, source], check=True)
    return target


@pytest.fixture
def image(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process, with the example installed and not imported."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return installed


def named(run: RunFile, **extensions: Any) -> RunFile:
    """The run with these extensions."""
    return run.model_copy(update={"extensions": Extensions.model_validate(extensions)})


def write_package(folder: Path, group: str, code: str) -> None:
    """An installed package of one module with one entry point `mine`, as its metadata would be on disk."""
    (folder / "mine.py").write_text(code)
    (folder / "mine-1.dist-info").mkdir()
    (folder / "mine-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (folder / "mine-1.dist-info/entry_points.txt").write_text(f"[{group}]\nmine = mine:it\n")


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("field", ["callbacks", "metrics", "model"])
def test_an_unknown_name_is_refused_in_prepare(field: str, model: Path, tmp_path: Path) -> None:
    """Before a row is read, with the names that are installed; nothing of them was loaded."""
    wanted = "nonsense" if field == "model" else ["nonsense"]
    run = named(run_file(tmp_path, model), **{field: wanted})
    with pytest.raises(RunError) as caught:
        prepare_stage(run.model_copy(update={"stage": Stage.PREPARE}), WorkDir(tmp_path / "work"), StopSwitch())

    there = {"callbacks": "step-times", "metrics": "token-accuracy", "model": "eager"}
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert f"extensions.{field}: no entry point nonsense" in caught.value.message
    assert caught.value.hint == f"These are installed: {there[field]}."
    assert not (tmp_path / "work/data").exists()
    assert MODULE not in sys.modules


def test_without_any_installed_the_page_is_named(model: Path, tmp_path: Path) -> None:
    """The remedy is an image of one's own."""
    with pytest.raises(RunError) as caught:
        check_image(named(run_file(tmp_path, model), metrics=["token-accuracy"]))

    assert "docs/extensions.md" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import not_there", "could not be loaded: ModuleNotFoundError: No module named 'not_there'"),
        ("it = 5", "mine (mine:it) is a int, which cannot be called"),
        ("pass", "could not be loaded: AttributeError"),
    ],
)
def test_code_that_cannot_be_used(code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is the user's mistake, and named as one."""
    write_package(tmp_path, "finetune.metrics", code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(RunError) as caught:
        check_extensions(Extensions(metrics=["mine"]))

    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert words in caught.value.message


@pytest.mark.long
@pytest.mark.usefixtures("image")
def test_the_example_takes_part(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its metric is in every evaluation and is what plain PEFT gives; callback and factory were there."""
    caplog.set_level(logging.INFO, "finetune_trainer")
    evaluation = Evaluation.model_validate({"batchSize": 4, "everySteps": 2, "metric": "accuracy", "keepBest": True})
    run = run_file(tmp_path, model, maxSteps=4, method={"type": "LoRA"}).model_copy(update={"evaluation": evaluation})
    outcome = execute(
        named(run, callbacks=["step-times"], metrics=["token-accuracy"], model="eager"), tmp_path / "work"
    )

    assert outcome.reason is Reason.PUBLISHED
    assert [message[:11] for message in caplog.messages if " took " in message] == [f"step {n} took" for n in "1234"]
    assert caplog.messages.count("loading the model with eager attention") == 2  # to train, and to verify
    entries = [json.loads(line) for line in (tmp_path / "work/metrics.jsonl").read_text().splitlines()]
    measured = {entry["step"]: entry["eval_accuracy"] for entry in entries if "eval_loss" in entry}
    assert list(measured) == [2, 4]
    best = max(measured, key=lambda step: measured[step])
    assert _accuracy(model, tmp_path) == pytest.approx(measured[best])


def _accuracy(model: Path, folder: Path) -> float:
    """Of the published adapter on the held-out rows, whose answers alone are trained."""
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    right = total = 0
    for line in (folder / "eval.jsonl").read_text().splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template(messages, return_dict=False)[:-1]  # the line break after the end is no turn
        with torch.inference_mode():
            guesses = tuned(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
        for place in range(len(prompt), len(ids)):
            right += guesses[place - 1] == ids[place]
            total += 1
    return right / total


@pytest.mark.long
@pytest.mark.usefixtures("image")
def test_what_is_not_named_is_not_loaded(model: Path, tmp_path: Path) -> None:
    """An installed package never acts by itself."""
    execute(run_file(tmp_path, model, maxSteps=1), tmp_path / "work")

    assert MODULE not in sys.modules


CALLBACK = "import transformers\nclass it(transformers.TrainerCallback):\n    def on_step_end(self, *a, **k): 1 / 0\n"
FAILING = {
    "callbacks": ("finetune.callbacks", CALLBACK, "mine failed: ZeroDivisionError"),
    "metrics": ("finetune.metrics", "def it(**_): return {'Loss!': 1.0}\n", "'Loss!' is no name for a metric"),
    "model": ("finetune.models", "def it(**_): return 'a model'\n", "gave a str instead of a torch.nn.Module"),
}


@pytest.mark.long
@pytest.mark.parametrize("field", FAILING)
def test_code_that_fails_is_named(field: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the run as the image's mistake, not as a bug of the trainer that is tried again."""
    group, code, words = FAILING[field]
    write_package(tmp_path, group, code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    run = run_file(tmp_path, model, maxSteps=1, method={"type": "LoRA"})
    with pytest.raises(RunError) as caught:
        execute(named(run, **{field: "mine" if field == "model" else ["mine"]}), tmp_path / "work")

    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert f"extensions.{field}: mine" in caught.value.message
    assert words in caught.value.message


MEASURES = """
import json, pathlib, torch
def it(**_):
    phase = json.loads(pathlib.Path({progress!r}).read_text())["phase"]
    return {{"noise": float(torch.rand(())), "evaluates": float(phase == "Evaluating")}}
"""


@pytest.mark.long
def test_a_metric_disturbs_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that draws random numbers leaves the trained weights as they would be. And it is no training that hangs."""
    write_package(tmp_path, "finetune.metrics", MEASURES.format(progress=str(tmp_path / "with-1/work/progress.json")))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    adapters = []
    for metrics in ([], ["mine"]):
        folder = tmp_path / f"with-{len(metrics)}"
        folder.mkdir()
        run = run_file(folder, model, maxSteps=3)
        evaluation = Evaluation.model_validate({"batchSize": 4, "everySteps": 1})
        execute(named(run.model_copy(update={"evaluation": evaluation}), metrics=metrics), folder / "work")
        adapters.append((folder / "out/adapter_model.safetensors").read_bytes())

    assert adapters[0] == adapters[1]
    entries = [json.loads(line) for line in (tmp_path / "with-1/work/metrics.jsonl").read_text().splitlines()]
    measured = [entry for entry in entries if "eval_loss" in entry]
    assert [entry["eval_evaluates"] for entry in measured] == [1.0, 1.0, 1.0]
    assert len({entry["eval_noise"] for entry in measured}) == 1  # from the seed each time
