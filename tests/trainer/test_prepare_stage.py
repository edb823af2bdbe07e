"""Preparing first changes nothing but when a mistake is found, and who holds a GPU while the rows are read."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.names import Stage
from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_trainer.errors import RunError
from finetune_trainer.preparation.stage import execute as prepare_stage
from finetune_trainer.storage import open_store
from finetune_trainer.training.inputs import bring_inputs
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir
from finetune_trainer.worker import main
from tests.tiny import jsonl, rows
from tests.trainer.tinyrun import execute, run_file, session

PREPARED = "out/.finetune/u1/prepared"


def prepare(run: RunFile, work: Path) -> Outcome:
    """The stage, in this process."""
    return prepare_stage(run.model_copy(update={"stage": Stage.PREPARE}), WorkDir(work), StopSwitch())


def written(folder: Path) -> dict[str, bytes]:
    """The prepared objects in storage."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / PREPARED).rglob("*")) if p.is_file()}


def test_prepared_and_trained_is_trained(model: Path, tmp_path: Path) -> None:
    """On another disk and with the dataset gone, the prepared rows give the very bits and counts of a run without."""
    for name in ("alone", "staged"):
        (tmp_path / name).mkdir()
    alone = execute(run_file(tmp_path / "alone", model, maxSteps=3), tmp_path / "alone/work")
    run = run_file(tmp_path / "staged", model, maxSteps=3)
    first = prepare(run, tmp_path / "first")
    assert (first.reason, first.dataset) == (Reason.PREPARED, alone.dataset)
    for source in ("train.jsonl", "eval.jsonl"):
        (tmp_path / "staged" / source).unlink()

    second = execute(run, tmp_path / "second")

    assert (second.dataset, second.loss_before, second.loss_after) == (
        alone.dataset,
        alone.loss_before,
        alone.loss_after,
    )
    weights = [load_file(tmp_path / name / "out/adapter_model.safetensors") for name in ("alone", "staged")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not written(tmp_path / "staged"), "prepared rows outlive the result"


@pytest.mark.parametrize("damage", ["manifest", "part", "bits"])
def test_damaged_rows_are_never_trained(damage: str, model: Path, tmp_path: Path) -> None:
    """Without a manifest, without a part, or with other bits than the manifest says, the rows are read anew."""
    run = run_file(tmp_path, model, maxSteps=1)
    prepare(run, tmp_path / "first")
    tokens = tmp_path / PREPARED / "0/tokens.bin"
    if damage == "manifest":
        (tmp_path / PREPARED / "manifest.json").unlink()
    elif damage == "part":
        tokens.unlink()
    else:
        data = bytearray(tokens.read_bytes())
        data[-1] ^= 1
        tokens.write_bytes(data)
    (tmp_path / "train.jsonl").write_text(jsonl(rows(5)))  # tells which of the two was trained

    inputs = bring_inputs(session(run, tmp_path / "second"), open_store(run.output.uri, run.storage))

    assert inputs.report.rows == 5


def test_the_same_rows_are_prepared_once(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second attempt on another disk takes what the first left; a changed row, or another length, makes new rows."""
    caplog.set_level("INFO")
    run = run_file(tmp_path, model)
    prepare(run, tmp_path / "a")
    before = written(tmp_path)
    prepare(run, tmp_path / "b")
    assert "an earlier attempt has prepared these very rows" in caplog.text
    assert written(tmp_path) == before
    caplog.clear()
    (tmp_path / "train.jsonl").write_text(jsonl(rows(21)))
    found = prepare(run, tmp_path / "c").dataset
    assert found
    assert found.rows == 21
    shorter = run.training.model_copy(update={"max_length": 512})
    prepare(run.model_copy(update={"training": shorter}), tmp_path / "d")
    assert "an earlier attempt" not in caplog.text
    keys = json.loads(written(tmp_path)[f"{PREPARED}/manifest.json"])["keys"]
    assert len(set(keys) | set(json.loads(before[f"{PREPARED}/manifest.json"])["keys"])) == 4


def test_a_bad_row_is_told_before_anything_is_stored(model: Path, tmp_path: Path) -> None:
    """Its file and line are named, and storage holds no prepared rows."""
    run = run_file(tmp_path, model)
    (tmp_path / "train.jsonl").write_text(jsonl(rows(3)) + '{"messages": []}\n')
    with pytest.raises(RunError, match=r"train\.jsonl:4") as caught:
        prepare(run, tmp_path / "work")
    assert caught.value.reason is Reason.INVALID_DATASET
    assert not written(tmp_path)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"method": {"targetModules": ["no_such_proj"]}}, "no_such_proj"),
        ({"extraArguments": {"output_dir": "/x"}}, "output_dir"),
    ],
)
def test_what_the_job_has_wrong_costs_no_gpu(more: dict[str, Any], says: str, model: Path, tmp_path: Path) -> None:
    """A module that the model does not have, an argument that is refused: told by name, and nothing is stored."""
    with pytest.raises(RunError, match=says) as caught:
        prepare(run_file(tmp_path, model, **more), tmp_path / "work")
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert not written(tmp_path)


def test_preparing_needs_no_model(model: Path, tmp_path: Path) -> None:
    """A worker ends with Prepared, tells what training will take, and has downloaded no weights."""
    run = run_file(tmp_path, model).model_copy(update={"stage": Stage.PREPARE})
    (tmp_path / "run.json").write_text(run.to_json())
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert main(["--run-file", str(tmp_path / "run.json"), "--work-dir", str(tmp_path / "work")]) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    outcome = WorkDir(tmp_path / "work").read_outcome()
    assert outcome
    assert outcome.reason is Reason.PREPARED
    assert (outcome.estimated_memory_bytes or 0) > 10**8
    assert not list((tmp_path / "work").rglob("*.safetensors"))
    assert (tmp_path / "work/model/tokenizer.json").exists()
