"""Tokenised rows on disk: written once by the first process, mapped by all, the same bytes for the same input.

A folder of flat little-endian arrays without headers, for N rows of T tokens together:

    tokens.bin    int32 [T]    the token ids, row after row
    trained.bin   uint8 [T]    1 where the token is trained
    offsets.bin   int64 [N+1]  row i is tokens[offsets[i]:offsets[i+1]]; the last is T
    lines.bin     int64 [N]    line of the row in its file, from 1
    files.bin     int32 [N]    which file, an index into `files`
    index.json    {"version": 1, "key": "<hex>", "files": ["train.jsonl"], "facts": {...}}
    quarantine.jsonl           only where rows were skipped: {"file", "line", "kind", "reason", "raw"}

`index.json` is written last: a folder without it is not complete. `key` is a hash of everything that decides the rows
(the data, the tokenizer, the options); whoever finds a folder with the key that it would write need not write it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, overload

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.tokens import IGNORED, Ids, Labelled, TokenRow

VERSION = 1
QUARANTINE = "quarantine.jsonl"
"""The rows that were skipped, where there are any (see `findings`)."""
_BUFFER = 1 << 20
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


def discard(folder: Path) -> None:
    """Make a folder incomplete, whatever it held, and ready to be written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("index.json", QUARANTINE):
        (folder / name).unlink(missing_ok=True)


class ShardWriter:
    """Writes a folder, row by row; it has been discarded before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams: dict[str, BinaryIO] = {
            name: (folder / f"{name}.bin").open("wb", buffering=_BUFFER) for name in _TYPES
        }
        self._end = 0
        self._write("offsets", 0)

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files, in whatever state."""
        for stream in self._streams.values():
            stream.close()

    def add(self, row: Labelled, file: int, line: int) -> None:
        """Append one row."""
        self._streams["tokens"].write(row.input_ids.astype(_TYPES["tokens"], copy=False).tobytes())
        self._streams["trained"].write(row.trained.astype(_TYPES["trained"]).tobytes())
        self._end += len(row)
        self._write("offsets", self._end)
        self._write("lines", line)
        self._write("files", file)

    def finish(self, key: str, files: Sequence[str], facts: Facts) -> None:
        """Make the folder complete."""
        for stream in self._streams.values():
            stream.close()
        index = {"version": VERSION, "key": key, "files": list(files), "facts": asdict(facts)}
        part = self._folder / ".index.json.part"
        part.write_text(json.dumps(index, indent=1) + "\n")
        part.replace(self._folder / "index.json")

    def _write(self, name: str, value: int) -> None:
        self._streams[name].write(value.to_bytes(int(_TYPES[name][-1]), "little", signed=True))


class Rows(Sequence[TokenRow]):
    """The rows of a folder; only those in use are in memory."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self._tokens, self._trained, self._offsets, self._lines, self._numbers = (
            _mapped(folder / f"{name}.bin", kind) for name, kind in _TYPES.items()
        )
        self._files = files

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> TokenRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[TokenRow]: ...

    def __getitem__(self, index: int | slice) -> TokenRow | list[TokenRow]:
        """A row, copied out of the file."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        ids: Ids = np.array(self._tokens[start:end], dtype=np.int32)
        return TokenRow(ids, np.where(self._trained[start:end] != 0, ids, np.int32(IGNORED)))

    def __iter__(self) -> Iterator[TokenRow]:
        """All rows, in order."""
        return (self[number] for number in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape [rows]; reads no row."""
        return np.diff(self._offsets)

    def shortest(self, count: int) -> list[TokenRow]:
        """The shortest rows."""
        return [self[int(number)] for number in np.argsort(self.lengths, kind="stable")[:count]]

    def place(self, index: int) -> str:
        """File and line that a row came from."""
        return f"{self._files[int(self._numbers[index])]}:{int(self._lines[index])}"


def open_shards(folder: Path, key: str | None = None) -> tuple[Rows, Facts] | None:
    """Open a complete folder; None where there is none, or one of another version or with another key."""
    try:
        index = json.loads((folder / "index.json").read_bytes())
    except (OSError, ValueError):
        return None
    if index.get("version") != VERSION or key not in (None, index["key"]):
        return None
    return Rows(folder, index["files"]), Facts(**index["facts"])


def _mapped(path: Path, kind: str) -> NDArray[Any]:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=kind)  # an empty file cannot be mapped
    return np.memmap(path, dtype=kind, mode="r")
