"""Rows are tokenised once, by the first process, and found again by every other and by the next try."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_trainer.errors import RunError
from finetune_trainer.storage import open_store
from finetune_trainer.training.inputs import Inputs, bring_inputs
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.session import Session
from tests.tiny import save_tiny_model
from tests.trainer.tinyrun import run_file, session

AGAIN = "the rows that were tokenised before are used again"
SKIP = {"policy": "Skip", "maxPercent": 10}
Change = Callable[[dict[str, Any], Path, Path], None]


def changed(run: RunFile, **dataset: Any) -> RunFile:
    """The same run with other keys in its dataset."""
    document = json.loads(run.to_json())
    document["dataset"] |= dataset
    return RunFile.from_json(json.dumps(document))


def bring(run: RunFile, work: Path, *, rank: int = 0) -> tuple[Inputs, list[str]]:
    """What a process of the run gets, and what it says."""
    whole = session(run, work)
    said: list[str] = []
    whole.reporter.say = said.append  # type: ignore[method-assign]
    mine = Session(whole.run, whole.work, whole.stop, Processes(rank), whole.reporter)
    return bring_inputs(mine, open_store(run.output.uri, run.storage)), said


def content(inputs: Inputs) -> list[tuple[list[int], list[int]]]:
    """All tokens and labels."""
    return [(row.input_ids.tolist(), row.labels.tolist()) for row in inputs.train.rows]


def _max_length(document: dict[str, Any], _folder: Path, _model: Path) -> None:
    document["training"]["maxLength"] = 900


def _train_on(document: dict[str, Any], _folder: Path, _model: Path) -> None:
    document["dataset"]["trainOn"] = "All"


def _data(_document: dict[str, Any], folder: Path, _model: Path) -> None:
    file = folder / "train.jsonl"
    file.write_text(file.read_text().replace("Say 3.", "Say 4."))


def _template(_document: dict[str, Any], _folder: Path, model: Path) -> None:
    (model / "chat_template.jinja").write_text((model / "chat_template.jinja").read_text() + "{# changed #}")


@pytest.mark.parametrize("change", [None, _max_length, _train_on, _data, _template])
def test_a_second_try_uses_what_is_there(change: Change | None, tmp_path: Path) -> None:
    """The same data, tokenizer and options need no second tokenising; any change of them does."""
    model = save_tiny_model(tmp_path / "model")
    run = run_file(tmp_path, model)
    first, said = bring(run, tmp_path / "work")
    assert not any(AGAIN in sentence for sentence in said)
    document = json.loads(run.to_json())
    if change is not None:
        change(document, tmp_path, model)
    second, said = bring(RunFile.from_json(json.dumps(document)), tmp_path / "work")
    assert any(f"train.jsonl: {AGAIN}" in sentence for sentence in said) == (change is None)
    if change is None:
        assert (content(second), second.report) == (content(first), first.report)


def test_every_process_sees_the_same_rows(model: Path, tmp_path: Path) -> None:
    """A process that is not the first reads no file of rows, and has the same tokens and the same report."""
    run = run_file(tmp_path, model)
    first, _ = bring(run, tmp_path / "work")
    for file in (tmp_path / "work/data").rglob("*.jsonl"):
        file.unlink()
    other, said = bring(run, tmp_path / "work", rank=1)
    assert content(other) == content(first)
    assert other.report == first.report
    assert len(content(other)) == 20
    assert not any("read as" in sentence for sentence in said)


def test_skipped_rows_lie_beside_the_result(model: Path, tmp_path: Path) -> None:
    """quarantine.jsonl has the bad rows of both sources, and the report counts them; too many end the run with it."""
    run = run_file(tmp_path, model)
    for name in ("train", "eval"):
        with (tmp_path / f"{name}.jsonl").open("a") as file:
            file.write(f"{name} is broken\n")
    with pytest.raises(RunError, match=r"train.jsonl:21: is not valid JSON") as caught:
        bring(run, tmp_path / "work")
    assert caught.value.reason is Reason.INVALID_DATASET
    quarantine = tmp_path / "out/.finetune/u1/quarantine.jsonl"
    assert not quarantine.exists()
    with pytest.raises(RunError) as caught:
        bring(changed(run, invalidRows=SKIP), tmp_path / "work")
    assert caught.value.reason is Reason.TOO_MANY_INVALID_ROWS  # one of seven held-out rows
    assert "eval.jsonl:7: " in caught.value.message
    entries = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert [(entry["file"], entry["line"], entry["raw"]) for entry in entries] == [
        ("train.jsonl", 21, "train is broken"), ("eval.jsonl", 7, "eval is broken")
    ]  # fmt: skip
    quarantine.unlink()
    inputs, _ = bring(changed(run, invalidRows={**SKIP, "maxPercent": 15}), tmp_path / "work")
    assert (inputs.report.rows, inputs.report.evaluation_rows, inputs.report.invalid_rows) == (20, 6, 2)
    assert len(quarantine.read_text().splitlines()) == 2
