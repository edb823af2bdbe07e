"""The same rows in any container are the same rows; what is broken in one is named by file and line."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from finetune_api.outcome import Reason
from finetune_trainer.data.containers import array, read_records
from finetune_trainer.data.findings import RowError
from tests.trainer.datafiles import line, pair, prepared, refused

Row = dict[str, Any]
HARD = [
    {"prompt": "a\nb", "completion": 'say "x", then\r\ny'},
    {"prompt": "\u2028é 北京 😀", "completion": "\t\\n"},
    {"prompt": "[1, {", "completion": "]},"},
]


def as_lines(rows: Sequence[Row]) -> bytes:
    """One object a line, with blank lines between."""
    return b"\n".join(map(line, rows))


def as_array(rows: Sequence[Row]) -> bytes:
    """One array over many lines."""
    return json.dumps(list(rows), ensure_ascii=False, indent=2).encode()


def as_csv(rows: Sequence[Row]) -> bytes:
    """A table of strings, with a byte-order mark."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig")


def as_parquet(rows: Sequence[Row]) -> bytes:
    """Several row groups."""
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(rows)), sink, row_group_size=2)
    return sink.getvalue()


def as_arrow_file(rows: Sequence[Row]) -> bytes:
    """Several batches, with an index at the end."""
    table, sink = pa.Table.from_pylist(list(rows)), io.BytesIO()
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def as_arrow_stream(rows: Sequence[Row]) -> bytes:
    """Several batches, as `datasets` writes them."""
    table, sink = pa.Table.from_pylist(list(rows)), io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def compressed(data: bytes, codec: str, folder: Path) -> bytes:
    """Through a file: closing pyarrow's stream closes what is below it."""
    with pa.OSFile(str(folder / "compressed"), "wb") as file, pa.CompressedOutputStream(file, codec) as stream:
        stream.write(data)
    return (folder / "compressed").read_bytes()


CONTAINERS: dict[str, Callable[[Sequence[Row]], bytes]] = {
    "r.jsonl": as_lines,
    "r.json": as_array,
    "lines.json": as_lines,
    "r.csv": as_csv,
    "r.parquet": as_parquet,
    "r.arrow": as_arrow_file,
    "stream.arrow": as_arrow_stream,
    "without a suffix": as_lines,
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_holds_the_same_rows(name: str, tmp_path: Path) -> None:
    """Whatever the container, and compressed with gzip or zstd where that is not its own affair."""
    data = CONTAINERS[name](HARD)
    files = {name: data}
    if name.endswith((".jsonl", ".json", ".csv")):
        files |= {f"{name}.gz": gzip.compress(data), f"{name}.zst": compressed(data, "zstd", tmp_path)}
    expected = prepared(tmp_path, {"expected.jsonl": as_lines(HARD)}).texts
    assert len(expected) == 3
    for file, content in files.items():
        made = prepared(tmp_path, {file: content})
        assert made.texts == expected, file
        assert made.dataset.facts.format == "PromptCompletion"


def test_tables_with_nested_columns(tmp_path: Path) -> None:
    """Objects of a table have every field that any of them has; what is null there was not said."""
    call = {"name": "f", "arguments": {"x": 1, "y": None}}
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]},
    ]
    seen = [record.row for record in read_records(_written(tmp_path / "r.parquet", as_parquet(rows)))]
    calls = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}
    assert seen == [rows[0], {"messages": [rows[1]["messages"][0], calls]}]
    assert len(prepared(tmp_path, {"r.parquet": as_parquet(rows)}).dataset.rows) == 2


def test_lists_as_json_in_cells(tmp_path: Path) -> None:
    """CSV has no lists: messages stand in a cell as JSON."""
    messages = json.loads(pair())["messages"]
    made = prepared(tmp_path, {"r.csv": as_csv([{"messages": json.dumps(messages), "n": 1}])})
    assert made.texts == prepared(tmp_path, {"r.jsonl": pair()}).texts


def test_files_are_read_in_order(tmp_path: Path) -> None:
    """Several files are one source; a row's place is its own file and line there."""
    files = {"b.jsonl": pair("1") + pair("2"), "a/c.csv": as_csv([{"messages": pair("3")[13:-2].decode()}])}
    made = prepared(tmp_path, files)
    assert made.places == ["b.jsonl:1", "b.jsonl:2", "a/c.csv:2"]
    assert [text[len("<|im_start|>user\n")] for text, _ in made.texts] == ["1", "2", "3"]


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _lines(path: Path, content: bytes) -> list[tuple[int, str]]:
    """Line of each record, and what is wrong with it."""
    records = read_records(_written(path, content))
    return [(record.line, str(record.row) if isinstance(record.row, RowError) else "") for record in records]


DIGITS = b"1" * 5000
TOO_LONG = "a number of more digits than can be read"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.json", b'[{"a": 1},\n\n  {"b":\n 2}, 3\n]\n', [(1, ""), (3, ""), (4, "is the number 3, not an object")]),
        ("r.json", b"\xef\xbb\xbf [\n]", []),
        ("r.json", b'[{"a": "\xff"}]', [(1, "is not UTF-8: it has the byte 0xff")]),
        ("r.json", b'[{"a": "\\ud83d"}]', [(1, "has half of a surrogate pair, \\ud83d, which is no character")]),
        ("r.csv", b'a,b\n1,"2\n3"\n\n4\n5,6\n', [(2, ""), (5, "has 1 cells, but the header has 2"), (6, "")]),
        ("r.csv", b'a,b\n1,\xff\n"2"3,4\n5,6\n', [(2, "is not UTF-8: it has the byte 0xff"),
                                                (3, "is not valid CSV: ',' expected after '\"'"), (4, "")]),
        ("r.jsonl", b'{"a": ' + DIGITS + b'}\n{"a": 1}\n', [(1, f"has {TOO_LONG}"), (2, "")]),
        ("r.csv", b"", []),
        ("r.csv", b"a,b\n", []),
    ],
)  # fmt: skip
def test_lines_and_findings(name: str, content: bytes, expected: list[tuple[int, str]], tmp_path: Path) -> None:
    """A row has the number of the line it starts in, and what is wrong with one row does not hide the next."""
    assert _lines(tmp_path / name, content) == expected


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_strings_of_columns_that_are_no_text(suffix: str, tmp_path: Path) -> None:
    """Some writers put any bytes there: the row is named, and the others of its batch are read."""
    texts = pa.array([b"one", b"tw\xff", b"three"]).cast(pa.binary()).view(pa.string())
    table, path = pa.table({"text": texts}), tmp_path / f"r.{suffix}"
    if suffix == "parquet":
        parquet.write_table(table, path)
    else:
        with ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
    found = [record.row for record in read_records(path)]
    assert (found[0], found[2]) == ({"text": "one"}, {"text": "three"})
    assert isinstance(found[1], RowError)
    assert str(found[1]) == "is not UTF-8: it has the byte 0xff"


def test_a_time_that_no_calendar_has(tmp_path: Path) -> None:
    """Beyond the year 9999, in a column that may not even be wanted: its row is named, and the next one read."""
    times = pa.array([2**60, 0], type=pa.timestamp("us"))
    parquet.write_table(pa.table({"text": ["one", "two"], "at": times}), tmp_path / "r.parquet")
    first, second = [record.row for record in read_records(tmp_path / "r.parquet")]
    assert isinstance(first, RowError)
    assert "cannot be read" in str(first)
    assert not isinstance(second, RowError)


BROKEN = {
    "an array that ends early": ("r.json", b'[{"a": 1},\n{"a": "', 2, "the file ends within the JSON array"),
    "an array without its end": ("r.json", b'[{"a": 1}\n', 2, "the file ends within the JSON array"),
    "an array with a bad element": ("r.json", b'[{"a": 1},\n{"a" 1, "b": "' + b"x" * 50 + b'"}]', 2, "not valid JSON"),
    "an array without a comma": ("r.json", b'[{"a": 1}\n{"a": 1}]', 2, "',' should follow here"),
    "more behind an array": ("r.json", b'[{"a": 1}]\n{}', 2, "more text follows"),
    "an array with a number that is too long": ("r.json", b'[{"a": ' + DIGITS + b"}]", 1, "a number of more digits"),
    "a cell whose quotes never close": ("r.csv", b'a,b\n1,2\n3,"4\n' + b"5,6\n" * 100, 3, "does not end in this row"),
    "a cell that the next quote ends": ("r.csv", b'a\nb\n"c\nd\ne\n"f"\ng\n', 3, "does not end in this row"),
    "a column twice": ("r.csv", b"a,b,a\n1,2,3\n", 1, "the column 'a' twice"),
    "gzip that breaks off": ("r.jsonl.gz", gzip.compress(pair() * 9)[:-30], 0, "cannot be read on"),
    "what is no gzip": ("r.jsonl.gz", pair(), 0, "cannot be read on"),
    "what is no parquet": ("r.parquet", b"PAR1 nothing", 0, "cannot be read on"),
    "what is no arrow": ("r.arrow", b"nothing at all", 0, "cannot be read on"),
    "compression around parquet": ("r.parquet.gz", b"", 0, "compressed inside"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_ends_the_run(what: str, tmp_path: Path) -> None:
    """Where nobody can know how many rows are lost, the run ends with file and line, even where rows may be skipped."""
    name, content, number, words = BROKEN[what]
    error = refused(tmp_path, {name: content}, format="Text", invalidRows={"policy": "Skip", "maxPercent": 100})
    assert error.reason is Reason.INVALID_DATASET
    assert f"{name}:{number}: " in error.message
    assert words in error.message


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), values, max_size=3), max_size=6),
    piece=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 1]),
    ascii_only=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_an_array_is_read_piece_by_piece(
    rows: list[Row], piece: int, indent: int | None, ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However the file falls into pieces, the elements are those that a whole-file parser finds."""
    path = tmp_path_factory.getbasetemp() / "pieces.json"
    path.write_bytes(json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode())
    whole, array.PIECE = array.PIECE, piece
    try:
        assert [record.row for record in read_records(path)] == rows
    finally:
        array.PIECE = whole
