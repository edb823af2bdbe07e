"""Count the rows of a source: lengths, duplicates, what was left out and what was cut."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from finetune_trainer.data.findings import LISTED, Findings, Kind
from finetune_trainer.data.shards import Facts, Rows
from finetune_trainer.data.targets import Row


class Tally:
    """Numbers that grow by some twelve bytes a row, so that they fit into memory whatever the data."""

    def __init__(self, max_length: int) -> None:
        self.rows = 0
        """Rows that were kept."""
        self.too_long = Findings(Kind.TOO_LONG)
        """Rows that were left out for it."""
        self.cut = Findings(Kind.CUT)
        self.unfinished = Findings(Kind.UNFINISHED)
        """Those of the cut ones that lost their end."""
        self.endless = Findings(Kind.ENDLESS)
        """Kept rows without a trained token that ends a turn."""
        self.duplicates = Findings(Kind.DUPLICATE)
        """Kept rows that repeat an earlier one; known once `compare` has been called."""
        self._max_length = max_length
        self._tokens = self._trained = self._largest = self._split = self._windows = 0
        self._lengths, self._digests = array("i"), array("Q")

    @property
    def findings(self) -> list[Findings]:
        """All of them."""
        return [self.too_long, self.cut, self.unfinished, self.endless, self.duplicates]

    def measure(self, row: Row) -> None:
        """Remember the length that a row has by itself."""
        self._lengths.append(len(row))

    def drop(self, row: Row, file: str, line: int) -> None:
        """Count a row that is left out because it is too long."""
        self.too_long.add(file, line, self._over(row))

    def truncate(self, row: Row, file: str, line: int) -> Row:
        """Cut a row at the limit; its end is lost where the last token that ends a turn is."""
        self.cut.add(file, line, self._over(row))
        if row.loses_end(self._max_length):
            self.unfinished.add(file, line, "has lost the token that ends its last trained turn")
        return row.cut(self._max_length)

    def keep(self, row: Row, file: str, line: int) -> None:
        """Count a row that is written."""
        self._count(row, file, line)
        self._remember(row)

    def split(self, row: Row, windows: Sequence[Row], file: str, line: int) -> None:
        """Count the windows that are written in place of a row."""
        self._split += 1
        self._windows += len(windows)
        for window in windows:
            self._count(window, file, line)
        self._remember(row)

    def _over(self, row: Row) -> str:
        return f"has {len(row)} tokens, over maxLength {self._max_length}"

    def _count(self, row: Row, file: str, line: int) -> None:
        self.rows += 1
        if not row.stops_at_all:
            self.endless.add(file, line, "trains no token that ends a turn")
        self._tokens += len(row.input_ids)
        self._trained += row.items
        self._largest = max(self._largest, row.largest_token)

    def _remember(self, row: Row) -> None:
        """To find out which rows repeat another one."""
        digest = blake2b(digest_size=8)
        for part in row.identity:
            digest.update(part)
        self._digests.append(int.from_bytes(digest.digest(), "little"))

    def compare(self, rows: Rows) -> None:
        """Find the rows that repeat an earlier one; `rows` are those that were kept, as they are written."""
        if not self._digests:
            return
        digests = np.frombuffer(self._digests, dtype=np.uint64)
        order = np.argsort(digests, kind="stable")
        ordered = digests[order]
        again, begins = np.sort(order[1:][ordered[1:] == ordered[:-1]]), rows.begins
        for number in again[:LISTED]:
            file, line = rows.origin(int(begins[number]))
            earlier = rows.place(int(begins[(digests == digests[number]).argmax()]))
            self.duplicates.add(file, line, f"has the tokens of {earlier}, trained alike")
        self.duplicates.count = len(again)

    def percentile(self, percent: int) -> int:
        """The smallest length that at least so many percent of the rows do not exceed; 0 without rows."""
        if not self._lengths:
            return 0
        ordered = np.sort(np.frombuffer(self._lengths, dtype=np.intc))
        return int(ordered[max(0, -(-percent * len(ordered) // 100) - 1)])

    def facts(self, sha256: str, format_: str, invalid: int, labels: Sequence[str] = ()) -> Facts:
        """Everything, at the end."""
        return Facts(
            sha256=sha256,
            format=str(format_),
            tokens=self._tokens,
            trained_tokens=self._trained,
            largest_token=self._largest,
            dropped=self.too_long.count,
            truncated=self.cut.count,
            unfinished=self.unfinished.count,
            invalid=invalid,
            duplicates=self.duplicates.count,
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

    def summary(self) -> str:
        """The numbers as a sentence, with the first rows of each kind."""
        median, most, nearly, longest = (self.percentile(percent) for percent in (50, 95, 99, 100))
        parts = [
            f"{self.rows} rows, {self._tokens} tokens, {self._trained} of them trained",
            f"row lengths {median} (median), {most} (95 %), {nearly} (99 %), {longest} (longest)",
            f"{self.too_long.count} rows left out because they are longer than {self._max_length}"
            + (f" ({self.too_long.places})" if self.too_long.count else ""),
        ]
        if self.cut.count:
            lost = f"{self.unfinished.count} of which lost their end"
            parts.append(f"{self.cut.count} rows cut there, {lost} ({self.cut.places})")
        if self.endless.count:
            parts.append(f"{self.endless.count} rows train no token that ends a turn")
        if self._split:
            parts.append(f"{self._split} longer rows split into {self._windows} windows, each a row of its own")
        if self.duplicates.count:
            parts.append(f"{self.duplicates.count} rows repeat an earlier one and are kept ({self.duplicates.places})")
        return "; ".join(parts)
