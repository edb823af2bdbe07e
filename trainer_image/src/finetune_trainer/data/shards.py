"""Tokenised rows on disk: written once by the first process, mapped by all, the same bytes for the same input.

A folder of flat little-endian arrays without headers, for N rows of T tokens together:

    tokens.bin    int32 [T]    the token ids, row after row
    trained.bin   uint8 [T]    1 where the token is trained
    offsets.bin   int64 [N+1]  row i is tokens[offsets[i]:offsets[i+1]]; the last is T
    lines.bin     int64 [N]    line of the row in its file, from 1
    files.bin     int32 [N]    which file, an index into `files`

Of other tasks than CausalLM also, with K targets and D bytes of details together:

    segments.bin  uint8 [T]    1 for the tokens of a second text
    targets.bin   int32 [K]    what the row is to give: see the task's encoder in `encoders`
    target_offsets.bin   int64 [N+1]   row i is targets[target_offsets[i]:target_offsets[i+1]]
    windows.bin          int32 [N]     which window of the row it was made from; 0 begins the next one
    details.bin          uint8 [D]     what an evaluation wants to know beside the tokens
    detail_offsets.bin   int64 [N+1]

And beside them:

    index.json    {"version": 1, "key": "<hex>", "files": ["train.jsonl"], "sources": [0], "facts": {...}}
    dataset-report.json        what was found, for people (see `report`); older trainers wrote none
    quarantine.jsonl           only where rows were skipped: {"file", "line", "kind", "reason", "raw"}

`index.json` is written last: a folder without it is not complete. `key` is a hash of everything that decides the rows
(the data, the tokenizer, the options); whoever finds a folder with the key that it would write need not write it.
"""

import json
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self, overload

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.targets import Row, Targeted
from finetune_trainer.data.tokens import IGNORED, Ids, TokenRow
from finetune_trainer.data.weights import order_of

VERSION = 1
QUARANTINE = "quarantine.jsonl"
"""The rows that were skipped, where there are any (see `findings`)."""
REPORT = "dataset-report.json"
"""What was found, for people (see `report`)."""
_BUFFER = 1 << 20
_TARGETED = {
    "segments": "<u1",
    "targets": "<i4",
    "target_offsets": "<i8",
    "details": "<u1",
    "detail_offsets": "<i8",
    "windows": "<i4",
}
_TYPES = {"tokens": "<i4", "trained": "<u1", "offsets": "<i8", "lines": "<i8", "files": "<i4"}


@dataclass(frozen=True)
class Facts:
    """What was seen of one source, in rows and tokens."""

    sha256: str
    """Of the files."""
    format: str
    tokens: int
    trained_tokens: int
    largest_token: int
    dropped: int
    """Rows over the length limit that were left out."""
    truncated: int
    """Rows that were cut at the length limit."""
    unfinished: int
    """Truncated rows that lost the token which ends their last trained turn."""
    invalid: int
    """Rows that could not be used and were skipped."""
    duplicates: int
    """Rows that repeat an earlier one."""
    longest: int
    """Tokens of the longest row, before any is dropped or cut; so are the percentiles."""
    p50: int
    p95: int
    p99: int
    labels: list[str] = field(default_factory=list)
    """Of classification: the names of the labels, by number."""


def discard(folder: Path) -> None:
    """Make a folder incomplete, whatever it held, and ready to be written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("index.json", REPORT, QUARANTINE, *(f"{name}.bin" for name in _TARGETED)):
        (folder / name).unlink(missing_ok=True)


class ShardWriter:
    """Writes a folder, row by row, as a context; it has been discarded before."""

    def __init__(self, folder: Path, *, targeted: bool = False) -> None:
        self._folder = folder
        self._types = {**_TYPES, **_TARGETED} if targeted else _TYPES
        self._streams: dict[str, BinaryIO] = {
            name: (folder / f"{name}.bin").open("wb", buffering=_BUFFER) for name in self._types
        }
        self._ends = dict.fromkeys((name for name in self._types if name.endswith("offsets")), 0)
        for name in self._ends:
            self._write(name, 0)

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files, in whatever state; the rows can be read from now on."""
        for stream in self._streams.values():
            stream.close()

    def add(self, row: Row, file: int, line: int, window: int = 0) -> None:
        """Append one row; `window` counts those that were made from one."""
        self._append("tokens", row.input_ids, "offsets")
        if isinstance(row, Targeted):
            self._append("trained", np.zeros(len(row.input_ids)))
            self._append("segments", row.segments)
            self._append("targets", row.targets, "target_offsets")
            self._append("details", np.frombuffer(row.details, np.uint8), "detail_offsets")
            self._write("windows", window)
        else:
            self._append("trained", row.trained)
        self._write("lines", line)
        self._write("files", file)

    def renumber(self, order: Sequence[int]) -> None:
        """Give target n of the rows as they came its number, and leave what is ignored; the files are closed."""
        path, numbers = self._folder / "targets.bin", np.asarray(order, dtype=_TARGETED["targets"])
        if list(order) == list(range(len(order))) or not path.stat().st_size:
            return
        targets = np.memmap(path, dtype=_TARGETED["targets"], mode="r+")
        for start in range(0, len(targets), _BUFFER):
            piece = targets[start : start + _BUFFER]
            told = piece != IGNORED
            piece[told] = numbers[piece[told]]
        targets.flush()

    def finish(self, key: str, files: Sequence[str], facts: Facts, sources: Sequence[int] | None = None) -> None:
        """Make the folder complete; the files are closed.

        Args:
            key: Names the content.
            files: Their names.
            facts: What was seen.
            sources: Of which URI each file is; of the first one when None.
        """
        of = list(sources) if sources is not None else [0] * len(files)
        index = {"version": VERSION, "key": key, "files": list(files), "sources": of, "facts": asdict(facts)}
        part = self._folder / ".index.json.part"
        part.write_text(json.dumps(index, indent=1) + "\n")
        part.replace(self._folder / "index.json")

    def _append(self, name: str, values: NDArray[Any], offsets: str | None = None) -> None:
        self._streams[name].write(values.astype(self._types[name], copy=False).tobytes())
        if offsets:
            self._ends[offsets] += len(values)
            self._write(offsets, self._ends[offsets])

    def _write(self, name: str, value: int) -> None:
        self._streams[name].write(value.to_bytes(int(self._types[name][-1]), "little", signed=True))


class Rows(Sequence[TokenRow]):
    """The rows of a folder; only those in use are in memory."""

    def __init__(self, folder: Path, files: Sequence[str], sources: Sequence[int] = ()) -> None:
        self._tokens, self._trained, self._offsets, self._lines, self._numbers = (
            _mapped(folder / f"{name}.bin", kind) for name, kind in _TYPES.items()
        )
        targeted = (folder / "targets.bin").exists()
        there = [name for name in _TARGETED if (folder / f"{name}.bin").exists()]  # an older trainer wrote no windows
        self._targeted = {n: _mapped(folder / f"{n}.bin", _TARGETED[n]) for n in there} if targeted else {}
        self._files = files
        self._sources = np.asarray(sources or [0] * len(files), dtype=np.int32)
        self._order: NDArray[np.int64] | None = None

    def weighted(self, weights: Sequence[float], seed: int) -> "Rows":
        """The rows of an epoch, each as often as the weight of its URI says (see `weights`)."""
        if all(weight == 1 for weight in weights):
            return self
        view = copy(self)
        view._order = order_of(self._sources[self._numbers], weights, seed)  # noqa: SLF001 - our own
        return view

    def __len__(self) -> int:
        """The number of rows."""
        return self.stored if self._order is None else len(self._order)

    @property
    def stored(self) -> int:
        """The number of rows on disk, whatever their weights."""
        return len(self._lines)

    def _number(self, index: int) -> int:
        return index if self._order is None else int(self._order[index])

    @overload
    def __getitem__(self, index: int) -> TokenRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[TokenRow]: ...

    def __getitem__(self, index: int | slice) -> TokenRow | list[TokenRow]:
        """A row, copied out of the file."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = self._number(range(len(self))[index])
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        ids: Ids = np.array(self._tokens[start:end], dtype=np.int32)
        if self._targeted:
            segments = np.array(self._targeted["segments"][start:end], dtype=np.uint8)
            targets = np.array(self._slice("targets", "target_offsets", number), dtype=np.int32)
            return TokenRow(ids, targets, segments, self._slice("details", "detail_offsets", number).tobytes())
        return TokenRow(ids, np.where(self._trained[start:end] != 0, ids, np.int32(IGNORED)))

    def _slice(self, name: str, offsets: str, number: int) -> NDArray[Any]:
        ends = self._targeted[offsets]
        return self._targeted[name][int(ends[number]) : int(ends[number + 1])]

    def __iter__(self) -> Iterator[TokenRow]:
        """All rows, in order."""
        return (self[number] for number in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape [rows]; reads no row."""
        lengths = np.diff(self._offsets)
        return lengths if self._order is None else lengths[self._order]

    @property
    def begins(self) -> NDArray[np.int64]:
        """The first of the rows that were made from one, for each such one; reads no row."""
        windows = self._targeted.get("windows")
        return np.arange(self.stored) if windows is None else np.flatnonzero(windows == 0)

    def shortest(self, count: int) -> list[TokenRow]:
        """The shortest rows."""
        return [self[int(number)] for number in np.argsort(self.lengths, kind="stable")[:count]]

    def origin(self, index: int) -> tuple[str, int]:
        """File and line that a row came from."""
        number = self._number(index)
        return self._files[int(self._numbers[number])], int(self._lines[number])

    def place(self, index: int) -> str:
        """The same, as messages name it."""
        file, line = self.origin(index)
        return f"{file}:{line}"


def open_shards(folder: Path, key: str | None = None) -> tuple[Rows, Facts] | None:
    """Open a complete folder; None where there is none, or one of another version or with another key."""
    try:
        index = json.loads((folder / "index.json").read_bytes())
    except (OSError, ValueError):
        return None
    if index.get("version") != VERSION or key not in (None, index["key"]):
        return None
    return Rows(folder, index["files"], index.get("sources", ())), Facts(**index["facts"])


def _mapped(path: Path, kind: str) -> NDArray[Any]:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=kind)  # an empty file cannot be mapped
    return np.memmap(path, dtype=kind, mode="r")
