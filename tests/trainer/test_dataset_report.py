"""What prepare finds in a dataset is in a file beside the result: how much of each kind, where, and the first rows."""

import json
import logging
import os
from collections.abc import Iterator
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Storage, Task, TaskType
from finetune_trainer.data import prepare as preparing
from finetune_trainer.errors import RunError
from finetune_trainer.preparation.stage import execute
from finetune_trainer.storage import Store, open_store, s3
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir
from tests.trainer.datafiles import ASSISTANT, USER, line, pair, prepared, refused
from tests.trainer.faulty_proxy import FaultyProxy
from tests.trainer.taskmodels import encoder_tokenizer
from tests.trainer.tinyrun import run_file

BESIDE = ".finetune/u1/dataset-report.json"
MANIFEST = ".finetune/u1/prepared/manifest.json"
FRAME = 21
"""Tokens of a pair around its question and answer: three markers of a token, `user`, `assistant`, newlines."""
PROMPT = 20
"""Those before the answer, with a question of one letter."""
LIMIT = FRAME + 10
BAD = b'{"messages": "\xff"}\n'
DIRTY = {
    "a.jsonl": pair("a", "b")
    + BAD
    + pair("a", "b")
    + line({"messages": [USER]})
    + pair("a", "b" * 50)
    + line({"messages": [USER, ASSISTANT, {**USER, "content": "c" * 60}]})
    + pair("a" * 90, "b")
    + BAD,
    "notes.md": b"not a row\n",
    "y.jsonl": b"",
    "z.jsonl": pair("a", "b") * 25,
}
PLACES = {
    "not UTF-8": (2, [("a.jsonl", 2), ("a.jsonl", 8)]),
    "no assistant turn": (1, [("a.jsonl", 4)]),
    "too long": (1, [("a.jsonl", 7)]),
    "cut": (2, [("a.jsonl", 5), ("a.jsonl", 6)]),
    "cut before its end": (1, [("a.jsonl", 5)]),
    "trains no end of a turn": (1, [("a.jsonl", 5)]),
    "repeats an earlier row": (26, [("a.jsonl", 3), *(("z.jsonl", number) for number in range(1, 20))]),
    "file without rows": (1, [("y.jsonl", None)]),
    "file left alone": (1, [("notes.md", None)]),
}
COUNTS = {
    "rowsRead": 33, "rows": 29, "invalidRows": 3, "droppedRows": 1, "truncatedRows": 2, "unfinishedRows": 1,
    "duplicateRows": 26, "longestRow": FRAME + 91, "p50Length": FRAME + 2, "p95Length": FRAME + 70,
    "p99Length": FRAME + 91, "tokens": 27 * (FRAME + 2) + 2 * LIMIT, "trainedTokens": 27 * 2 + (LIMIT - PROMPT) + 2,
}  # fmt: skip


@pytest.fixture
def store(s3_uri: str, s3_storage: Storage) -> Store:
    """Where the result goes."""
    return open_store(s3_uri, s3_storage)


@pytest.fixture
def proxy(s3_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the server."""
    monkeypatch.setattr(s3, "READ_SECONDS", 1)
    with FaultyProxy(str(s3_storage.endpoint)) as faulty:
        yield faulty


def dirty(folder: Path, model: Path, store: Store, storage: Storage, policy: str = "Skip") -> RunFile:
    """A run on the dirty rows and six held-out ones, of which one is bad."""
    document = json.loads(run_file(folder, model, maxLength=LIMIT).to_json())
    for name, content in DIRTY.items():
        (folder / "rows").mkdir(exist_ok=True)
        (folder / "rows" / name).write_bytes(content)
    (folder / "eval.jsonl").write_bytes(pair("e", "f") * 2 + BAD + pair("g", "h") * 3)
    document["stage"] = Stage.PREPARE
    document["dataset"] |= {
        "train": {"uri": f"file://{folder}/rows/"},
        "overlong": "Truncate",
        "invalidRows": {"policy": policy, **({"maxPercent": 20} if policy == "Skip" else {})},
    }
    document["storage"] = storage.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["output"] = {"uri": store.uri}
    return RunFile.from_json(json.dumps(document))


def prepare(run: RunFile, work: Path) -> Outcome:
    """The stage, in this process."""
    return execute(run, WorkDir(work), StopSwitch())


def told(store: Store) -> dict[str, Any]:
    """The report in storage."""
    found: dict[str, Any] = json.loads(store.read(BESIDE))
    return found


def places(part: dict[str, Any]) -> dict[str, tuple[int, list[tuple[str, int | None]]]]:
    """Of each kind how many there are, and where the first are."""
    return {
        found["kind"]: (found["count"], [(entry["file"], entry["line"]) for entry in found["first"]])
        for found in part["findings"]
    }


def test_the_report_counts_and_names_every_kind(
    model: Path, tmp_path: Path, store: Store, s3_storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    """Numbers and places are those of a count by hand; the rows shown are those of the log, with their places."""
    caplog.set_level(logging.INFO)
    outcome = prepare(dirty(tmp_path, model, store, s3_storage), tmp_path / "work")
    report = told(store)
    train, held_out = report["train"], report["evaluation"]
    assert {name: train[name] for name in COUNTS} == COUNTS
    assert train["rowsRead"] == train["rows"] + train["invalidRows"] + train["droppedRows"]
    assert places(train) == PLACES
    reasons = {found["kind"]: found["first"][0]["reason"] for found in train["findings"]}
    assert reasons["too long"] == f"has {FRAME + 91} tokens, over maxLength {LIMIT}"
    assert reasons["repeats an earlier row"] == "has the tokens of a.jsonl:1, trained alike"
    assert "no assistant turn" in reasons["no assistant turn"]
    logged = [record.getMessage().removeprefix("tiny: ") for record in caplog.records]
    assert [shown["text"] for shown in train["shown"]] == [text for text in logged if text.startswith("trained is")]
    assert [(shown["file"], shown["line"]) for shown in train["shown"]] == [("a.jsonl", n) for n in (1, 3, 5)]
    first = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n>>>b<|im_end|><<<\n"
    assert train["shown"][0]["text"].endswith(repr(first))
    assert (held_out["rowsRead"], held_out["rows"], "shown" in held_out) == (6, 5, False)
    assert places(held_out)["not UTF-8"] == (1, [("eval.jsonl", 3)])
    assert outcome.dataset
    assert (outcome.dataset.unfinished_rows, outcome.dataset.invalid_rows) == (1, 4)
    assert f"{store.uri}/{BESIDE}" in caplog.text


def test_no_prepared_rows_without_the_report(model: Path, tmp_path: Path, store: Store, proxy: FaultyProxy) -> None:
    """Where the report cannot be stored no manifest says that rows are there; the next attempt has both."""
    run = dirty(tmp_path, model, store, Storage(endpoint=proxy.endpoint))
    proxy.fail("503", method="PUT", containing=BESIDE)
    with pytest.raises(RunError) as caught:
        prepare(run, tmp_path / "first")
    assert caught.value.reason is Reason.STORAGE_UNAVAILABLE
    assert not store.exists(MANIFEST)
    proxy.heal()
    prepare(run, tmp_path / "second")
    assert store.exists(MANIFEST)
    assert places(told(store)["train"]) == PLACES


def test_no_index_without_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the report leaves no folder of rows that counts as whole."""
    prepared(tmp_path, {"r.jsonl": pair()})
    assert (tmp_path / "rows/dataset-report.json").exists()

    def full(*_: object) -> None:
        raise OSError(ENOSPC, "no space")

    monkeypatch.setattr(preparing, "write_part", full)
    with pytest.raises(OSError, match="no space"):
        prepared(tmp_path, {"r.jsonl": pair()})
    assert not (tmp_path / "rows/index.json").exists()
    assert not (tmp_path / "rows/dataset-report.json").exists(), "the report of other rows stays"


def test_rows_that_are_used_again_bring_their_report(
    model: Path, tmp_path: Path, store: Store, s3_storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    """A second attempt on another disk puts the same report there; rows of a trainer that wrote none go without."""
    caplog.set_level(logging.INFO)
    run = dirty(tmp_path, model, store, s3_storage)
    prepare(run, tmp_path / "first")
    report = store.read(BESIDE)
    store.delete(BESIDE)
    prepare(run, tmp_path / "second")
    assert store.read(BESIDE) == report
    store.delete(BESIDE)
    manifest = json.loads(store.read(MANIFEST))
    for source in "01":
        del manifest["files"][f"{source}/dataset-report.json"]
    store.write(MANIFEST, json.dumps(manifest).encode())
    caplog.clear()
    assert prepare(run, tmp_path / "third").reason is Reason.PREPARED
    assert "an earlier attempt has prepared these very rows" in caplog.text
    assert not store.exists(BESIDE)


def test_a_refused_dataset_has_its_report(model: Path, tmp_path: Path, store: Store, s3_storage: Storage) -> None:
    """With policy Fail it names more rows than the message, and says why they may not be trained."""
    run = dirty(tmp_path, model, store, s3_storage, policy="Fail")
    (tmp_path / "rows/z.jsonl").write_bytes(BAD * 25)
    with pytest.raises(RunError, match="28 of 33 rows cannot be used") as caught:
        prepare(run, tmp_path / "work")
    part = told(store)["train"]
    assert part["refused"] == f"InvalidDataset: {caught.value.message}"
    assert (part["rowsRead"], part["rows"], part["invalidRows"], "shown" in part) == (33, 4, 28, False)
    named = [("a.jsonl", 2), ("a.jsonl", 8), *(("z.jsonl", number) for number in range(1, 19))]
    assert places(part)["not UTF-8"] == (27, named)
    assert not store.exists(MANIFEST)


def test_the_verdict_needs_no_report(model: Path, tmp_path: Path, store: Store, proxy: FaultyProxy) -> None:
    """A storage that does not take the report of bad rows does not hide that they are bad."""
    run = dirty(tmp_path, model, store, Storage(endpoint=proxy.endpoint), policy="Fail")
    proxy.fail("503", method="PUT", containing=BESIDE)
    with pytest.raises(RunError) as caught:
        prepare(run, tmp_path / "work")
    assert caught.value.reason is Reason.INVALID_DATASET
    assert proxy.failed > 0


def part_of(folder: Path) -> dict[str, Any]:
    """What lies beside the shards of one source."""
    found: dict[str, Any] = json.loads((folder / "rows/dataset-report.json").read_bytes())
    return found


@pytest.mark.parametrize(
    ("rows", "overlong", "lines"),
    [
        pytest.param(pair() * 2 + pair("a", "b" * 50), "Fail", [3], id="too long"),
        pytest.param(pair("a" * 90, "b") * 3, "Drop", [1, 2, 3], id="empty"),
    ],
)
def test_each_refusal_is_in_the_report(rows: bytes, overlong: str, lines: list[int], tmp_path: Path) -> None:
    """Whatever the rows are refused for; the rows in question are named."""
    error = refused(tmp_path, {"r.jsonl": rows}, LIMIT, overlong=overlong)
    part = part_of(tmp_path)
    assert part["refused"] == f"{error.reason}: {error.message}"
    assert places(part)["too long"] == (len(lines), [("r.jsonl", number) for number in lines])


def test_repeated_rows_that_are_split_are_named(tmp_path: Path) -> None:
    """A row is several windows on the disk; that it repeats another one is said of its own line."""

    def row(context: str) -> bytes:
        answer = {"text": [context[0]], "answer_start": [0]}
        return line({"question": "q", "context": context, "answers": answer})

    rows = row("abcdefgh" * 8) + row("short") + row("abcdefgh" * 8) + row("other") + row("short")
    task = Task(type=TaskType.QUESTION_ANSWERING)
    made = prepared(
        tmp_path, {"r.jsonl": rows}, 30, task=task, tokenizer=encoder_tokenizer(), overlong="Split", trains=False
    )
    assert len(made.dataset.rows) > 7
    assert places(part_of(tmp_path))["repeats an earlier row"] == (2, [("r.jsonl", 3), ("r.jsonl", 5)])


def test_any_text_can_be_told(tmp_path: Path) -> None:
    """The report is UTF-8 that people read, and JSON also where a file's name on the disk is none."""
    name = os.fsdecode(b"rows-\xff.jsonl")
    prepared(tmp_path, {name: pair("a", "naïve 北")})
    text = (tmp_path / "rows/dataset-report.json").read_text(encoding="utf-8")
    assert "naïve 北" in text
    assert json.loads(text)["shown"][0]["file"] == name
