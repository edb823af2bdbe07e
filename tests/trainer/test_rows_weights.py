"""Rows of several sources: each row is seen as often as the weight of its source says."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.run import RunFile
from finetune_trainer.data.weights import order_of
from finetune_trainer.errors import RunError
from finetune_trainer.storage import open_store
from finetune_trainer.training.inputs import Inputs, bring_inputs
from tests.tiny import jsonl, rows
from tests.trainer.tinyrun import execute, run_file, session

WEIGHTS = st.lists(st.integers(1, 1000).map(lambda hundredths: Fraction(hundredths, 100)), min_size=1, max_size=4)


@given(WEIGHTS, st.data())
def test_each_row_as_often_as_its_weight(weights: list[Fraction], data: st.DataObject) -> None:
    """No two rows of a source differ by more than one time, and all times of a source are weight x rows, rounded."""
    sources = data.draw(st.lists(st.integers(0, len(weights) - 1), max_size=60))
    order = order_of(np.asarray(sources, np.int32), [float(weight) for weight in weights], seed=3)
    times = Counter(order.tolist())
    assert list(order) == sorted(order)
    for number, weight in enumerate(weights):
        members = [row for row, source in enumerate(sources) if source == number]
        assert {times[row] - int(weight) for row in members} <= {0, 1}
        assert abs(sum(times[row] for row in members) - weight * len(members)) <= Fraction(1, 2)


def test_the_seed_chooses_the_part() -> None:
    """The same seed chooses the same half, another one another, and a source's choice does not depend on the others."""
    many = np.zeros(100, np.int32)
    half = order_of(many, [0.5], seed=1)
    assert len(half) == 50
    assert np.array_equal(half, order_of(many, [0.5], seed=1))
    assert not np.array_equal(half, order_of(many, [0.5], seed=2))
    beside = order_of(np.concatenate([many, np.ones(40, np.int32)]), [0.5, 3], seed=1)
    assert np.array_equal(half, beside[beside < 100])


def mixed(folder: Path, model: Path, train: dict[str, Any], **training: Any) -> RunFile:
    """A run on `train`, where FOLDER stands for the folder."""
    run = run_file(folder, model, **training)
    document = json.loads(run.to_json())
    document["dataset"]["train"] = json.loads(json.dumps(train).replace("FOLDER", str(folder)))
    return RunFile.from_json(json.dumps(document))


def bring(run: RunFile, work: Path) -> Inputs:
    """The inputs of a run, read as training reads them."""
    return bring_inputs(session(run, work), open_store(run.output.uri, run.storage))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two files of one name in two folders: 8 rows and 5."""
    for name, count, start in (("a", 8, 0), ("b", 5, 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text(jsonl(rows(count, start=start)))
    return tmp_path


def test_files_of_one_name_stay_apart(two: Path, model: Path) -> None:
    """An epoch has the weighted rows, the report those of the files, and a row's place names its whole URI."""
    train = {"uri": "file://FOLDER/a/rows.jsonl", "more": [{"uri": "file://FOLDER/b/rows.jsonl", "weight": "2"}]}
    inputs = bring(mixed(two, model, train), two / "work")
    places = [inputs.train.rows.place(number) for number in range(len(inputs.train.rows))]
    wanted = [f"file://{two}/a/rows.jsonl:{line}" for line in range(1, 9)]
    wanted += [f"file://{two}/b/rows.jsonl:{line}" for line in range(1, 6) for _ in "12"]
    assert places == wanted
    assert inputs.report.rows == 13
    lengths = [len(row) for row in inputs.train.rows]
    assert inputs.train.rows.lengths.tolist() == lengths
    assert [len(row) for row in inputs.train.rows.shortest(3)] == sorted(lengths)[:3]


def test_a_bad_row_is_found_in_any_of_them(two: Path, model: Path) -> None:
    """The message names the source it is in."""
    (two / "b/rows.jsonl").write_text(jsonl(rows(2)) + "{\n")
    train = {"uri": "file://FOLDER/a/rows.jsonl", "more": [{"uri": "file://FOLDER/b/rows.jsonl"}]}
    with pytest.raises(RunError, match=r"b/rows\.jsonl:3"):
        bring(mixed(two, model, train), two / "work")


@pytest.mark.long
@pytest.mark.parametrize("packing", [False, True])
def test_twice_is_as_if_written_twice(packing: bool, two: Path, model: Path) -> None:
    """Weight 2 trains the very bits that a file trains in which each row stands twice."""
    doubled = [row for row in rows(8) for _ in "12"] + rows(5, start=100)
    (two / "doubled.jsonl").write_text(jsonl(doubled))
    weighted = {"uri": "file://FOLDER/a/rows.jsonl", "weight": "2", "more": [{"uri": "file://FOLDER/b/rows.jsonl"}]}
    bits = []
    for name, train in (("weighted", weighted), ("written", {"uri": "file://FOLDER/doubled.jsonl"})):
        run = mixed(two, model, train, packing=packing, maxLength=256)
        run = run.model_copy(update={"output": run.output.model_copy(update={"uri": f"file://{two}/out-{name}"})})
        execute(run, two / f"work-{name}")
        bits.append((two / f"out-{name}/adapter_model.safetensors").read_bytes())
    assert bits[0] == bits[1]
