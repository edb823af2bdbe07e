"""A job that is deleted and applied again finds its verified result and trains nothing; any other job trains."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_trainer.preparation.stage import execute as prepare_stage
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir
from tests.tiny import jsonl, rows
from tests.trainer.tinyrun import execute, run_file

Files = dict[str, bytes]


def prepare(run: RunFile, work: Path, **changes: Any) -> Outcome:
    """The stage, for another object of the same content."""
    again = {"uid": "u2", "name": "again", "stage": Stage.PREPARE, **changes}
    return prepare_stage(run.model_copy(update=again), WorkDir(work), StopSwitch())


def files(folder: Path) -> Files:
    """Everything below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def first(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFile, Outcome, Path]:
    """A run that went through both stages, with all that it read."""
    folder = tmp_path_factory.mktemp("first")
    shutil.copytree(model, folder / "base")
    run = run_file(folder, folder / "base", maxSteps=1)
    prepare_stage(run.model_copy(update={"stage": Stage.PREPARE}), WorkDir(folder / "a"), StopSwitch())
    return run, execute(run, folder / "b"), folder


@pytest.fixture
def there(first: tuple[RunFile, Outcome, Path]) -> Iterator[tuple[RunFile, Outcome, Path]]:
    """The same, and as it was again afterwards."""
    folder = first[2]
    kept = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    yield first
    shutil.rmtree(folder / "out")
    for file, (content, changed) in kept.items():
        if file.is_relative_to(folder / "out") or not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            os.utime(file, ns=(changed, changed))


def test_the_same_content_is_not_trained_again(there: tuple[RunFile, Outcome, Path], tmp_path: Path) -> None:
    """Another object and another micro-batch: the artifact, the numbers, and not one byte in the bucket changed."""
    run, trained, folder = there
    before = files(folder / "out")
    smaller = run.training.model_copy(update={"micro_batch_size": 1})
    found = prepare(run, tmp_path / "work", training=smaller, gpus=2, processes=2, namespace="elsewhere")
    assert found.reason is Reason.ALREADY_PUBLISHED
    assert (found.artifact, found.dataset, found.step) == (trained.artifact, trained.dataset, trained.step)
    assert (found.loss_before, found.loss_after) == (trained.loss_before, trained.loss_after)
    assert "local/tiny (uid u1)" in found.message
    assert files(folder / "out") == before


def test_rows_that_the_train_stage_made_itself_count_too(model: Path, tmp_path: Path) -> None:
    """Without a stage of its own before it, the same hash."""
    run = run_file(tmp_path, model, maxSteps=1)
    execute(run, tmp_path / "a")
    assert prepare(run, tmp_path / "b").reason is Reason.ALREADY_PUBLISHED


def _other_row(folder: Path) -> None:
    (folder / "train.jsonl").write_text(jsonl(rows(20, start=1)))


def _other_held_out_row(folder: Path) -> None:
    (folder / "eval.jsonl").write_text(jsonl(rows(6, start=101)))


def _other_base(folder: Path) -> None:
    weights = folder / "base/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize("change", [_other_row, _other_held_out_row, _other_base])
def test_other_bytes_are_another_content(
    change: Callable[[Path], None], there: tuple[RunFile, Outcome, Path], tmp_path: Path
) -> None:
    """Rows, held-out rows, and weights of the base under the same names."""
    run, _, folder = there
    change(folder)
    assert prepare(run, tmp_path / "work").reason is Reason.PREPARED


@pytest.mark.parametrize(
    "settings",
    [
        {"training": {"learning_rate": "1e-3"}},
        {"training": {"seed": 7}},
        {"method": {"rank": 5}},
        {"evaluation": {"batch_size": 2}},
        {"dataset": {"chat_template_kwargs": {"a": "b"}}},
    ],
    ids=str,
)
def test_other_settings_are_another_content(
    settings: dict[str, dict[str, Any]], there: tuple[RunFile, Outcome, Path], tmp_path: Path
) -> None:
    """Whatever could have given another result."""
    run, _, _ = there
    ((part, fields),) = settings.items()
    changed = getattr(run, part).model_copy(update=fields)
    assert prepare(run, tmp_path / "work", **{part: changed}).reason is Reason.PREPARED


def test_rerun_trains_all_the_same(there: tuple[RunFile, Outcome, Path], tmp_path: Path) -> None:
    """What the user says goes."""
    assert prepare(there[0], tmp_path / "work", rerun=True).reason is Reason.PREPARED


def _lost(out: Path) -> None:
    (out / "adapter_config.json").unlink()


def _bit(out: Path) -> None:
    content = bytearray((out / "adapter_model.safetensors").read_bytes())
    content[-1] ^= 1
    (out / "adapter_model.safetensors").write_bytes(content)


def _without_manifest(out: Path) -> None:
    (out / "manifest.json").unlink()


def _record(out: Path, **changes: object) -> None:
    record = json.loads((out / "manifest.json").read_bytes()) | changes
    (out / "manifest.json").write_text(json.dumps(record))


def _refused_merge(out: Path) -> None:
    _record(out, mergeRefused="it lost the gain")


def _older_manifest(out: Path) -> None:
    _record(out, dataset={})


def _foreign_manifest(out: Path) -> None:
    (out / "manifest.json").write_text("[]")


@pytest.mark.parametrize("damage", [_lost, _bit, _without_manifest, _refused_merge, _older_manifest, _foreign_manifest])
def test_only_a_whole_result_counts(
    damage: Callable[[Path], None], there: tuple[RunFile, Outcome, Path], tmp_path: Path
) -> None:
    """A file missing or changed, no manifest, one that is not readable, or a result that was no success."""
    run, _, folder = there
    damage(folder / "out")
    assert prepare(run, tmp_path / "work").reason is Reason.PREPARED
