"""Count the rows of a source: lengths, duplicates, what was left out and what was cut."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from finetune_trainer.data.findings import SHOWN
from finetune_trainer.data.shards import Facts
from finetune_trainer.data.targets import Row

Place = tuple[int, int]
"""The number of a row's file, and its line there."""


class Tally:
    """Numbers that grow by some twenty bytes a row, so that they fit into memory whatever the data."""

    def __init__(self, max_length: int) -> None:
        self.rows = 0
        """Rows that were kept."""
        self.stopping = 0
        """Kept rows with a trained token that ends a turn."""
        self._max_length = max_length
        self._tokens = self._trained = self._largest = 0
        self._dropped = self._truncated = self._unfinished = self._split = self._windows = 0
        self._lengths = array("i")
        self._digests, self._places = array("Q"), (array("I"), array("Q"))
        self._left_out: list[Place] = []
        self._cut: list[Place] = []

    def measure(self, row: Row) -> None:
        """Remember the length that a row has by itself."""
        self._lengths.append(len(row))

    def drop(self, place: Place) -> None:
        """Count a row that is left out because it is too long."""
        self._dropped += 1
        _note(self._left_out, place)

    def truncate(self, row: Row, place: Place) -> Row:
        """Cut a row at the limit; its end is lost where the last token that ends a turn is."""
        cut = row.cut(self._max_length)
        self._truncated += 1
        _note(self._cut, place)
        self._unfinished += row.loses_end(self._max_length)
        return cut

    def keep(self, row: Row, place: Place) -> None:
        """Count a row that is written."""
        self._count(row)
        self._remember(row, place)

    def split(self, row: Row, windows: Sequence[Row], place: Place) -> None:
        """Count the windows that are written in place of a row."""
        self._split += 1
        self._windows += len(windows)
        for window in windows:
            self._count(window)
        self._remember(row, place)

    def _count(self, row: Row) -> None:
        self.rows += 1
        self.stopping += row.stops_at_all
        self._tokens += len(row.input_ids)
        self._trained += row.items
        self._largest = max(self._largest, row.largest_token)

    def _remember(self, row: Row, place: Place) -> None:
        """To find out which rows repeat another one."""
        for numbers, number in zip(self._places, place, strict=True):
            numbers.append(number)
        digest = blake2b(digest_size=8)
        for part in row.identity:
            digest.update(part)
        self._digests.append(int.from_bytes(digest.digest(), "little"))

    def percentile(self, percent: int) -> int:
        """The smallest length that at least so many percent of the rows do not exceed; 0 without rows."""
        if not self._lengths:
            return 0
        ordered = np.sort(np.frombuffer(self._lengths, dtype=np.intc))
        return int(ordered[max(0, -(-percent * len(ordered) // 100) - 1)])

    def facts(self, sha256: str, format_: str, invalid: int, labels: Sequence[str] = ()) -> Facts:
        """Everything, at the end."""
        distinct = len(np.unique(np.frombuffer(self._digests, dtype=np.uint64))) if self._digests else 0
        return Facts(
            sha256=sha256,
            format=str(format_),
            tokens=self._tokens,
            trained_tokens=self._trained,
            largest_token=self._largest,
            dropped=self._dropped,
            truncated=self._truncated,
            unfinished=self._unfinished,
            invalid=invalid,
            duplicates=len(self._digests) - distinct,
            longest=self.percentile(100),
            p50=self.percentile(50),
            p95=self.percentile(95),
            p99=self.percentile(99),
            labels=list(labels),
        )

    def emptiness(self, seen: int) -> str:
        """Why no row is left."""
        if not self._lengths:
            return f"all {seen} rows were skipped"
        return (
            f"all {len(self._lengths)} rows that can be used are longer than training.maxLength {self._max_length} (or "
            f"train nothing when cut there); the longest has {self.percentile(100)} tokens, the shortest "
            f"{self.percentile(0)}"
        )

    def _repeating(self) -> list[Place]:
        """The first rows that repeat an earlier one."""
        again = np.ones(len(self._digests), dtype=np.bool_)
        again[np.unique(np.frombuffer(self._digests, dtype=np.uint64), return_index=True)[1]] = False
        files, lines = self._places
        return [(files[number], lines[number]) for number in np.flatnonzero(again)[:SHOWN]]

    def summary(self, names: Sequence[str]) -> str:
        """The numbers as a sentence, with the first rows of each kind by their files' names."""
        facts = self.facts("", "", 0)

        def instances(places: list[Place]) -> str:
            told = ", ".join(f"{names[file]}:{line}" for file, line in places)
            return f" ({told} ...)" if len(places) == SHOWN else f" ({told})"

        parts = [
            f"{self.rows} rows, {self._tokens} tokens, {self._trained} of them trained",
            f"row lengths {facts.p50} (median), {facts.p95} (95 %), {facts.p99} (99 %), {facts.longest} (longest)",
            f"{self._dropped} rows left out because they are longer than {self._max_length}"
            + (instances(self._left_out) if self._left_out else ""),
        ]
        if self._truncated:
            lost = f"{self._unfinished} of which lost their end"
            parts.append(f"{self._truncated} rows cut there, {lost}{instances(self._cut)}")
        if self.rows > self.stopping:
            parts.append(f"{self.rows - self.stopping} rows train no token that ends a turn")
        if self._split:
            parts.append(f"{self._split} longer rows split into {self._windows} windows, each a row of its own")
        if facts.duplicates:
            parts.append(f"{facts.duplicates} rows repeat an earlier one and are kept{instances(self._repeating())}")
        return "; ".join(parts)


def _note(places: list[Place], place: Place) -> None:
    if len(places) < SHOWN:
        places.append(place)
