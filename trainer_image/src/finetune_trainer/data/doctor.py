"""Treat the rows of a source: good ones are written, bad ones counted, and nothing else happens to any."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1 import InvalidRowPolicy, Overlong
from finetune_trainer.data.encoder import RowEncoder
from finetune_trainer.data.findings import Findings, InvalidRows, Kind, Quarantine, RowError
from finetune_trainer.data.formats import RowReader
from finetune_trainer.data.options import Options
from finetune_trainer.data.shards import ShardWriter
from finetune_trainer.data.source import Origin, Source
from finetune_trainer.data.tally import Tally
from finetune_trainer.data.targets import Row, Targeted


@dataclass(frozen=True)
class _Readable:
    """The rows of a batch that could be read, and where each is from."""

    rows: list[Any]
    origins: list[Origin]


class Doctor:
    """Treats the rows of one source."""

    def __init__(
        self,
        source: Source,
        options: Options,
        reader: RowReader,
        encoder: RowEncoder,
        writer: ShardWriter,
        quarantine: Quarantine,
    ) -> None:
        self.seen = 0
        self.invalid = InvalidRows()
        """Rows that cannot be used."""
        self.tally = Tally(options.max_length)
        self._source = source
        self._options = options
        self._reader = reader
        self._encoder = encoder
        self._writer = writer
        self._quarantine = quarantine
        self._filled: set[int] = set()
        self._skips = options.dataset.invalid_rows.policy is InvalidRowPolicy.SKIP

    @property
    def empty(self) -> Findings:
        """Files that have no rows."""
        found = Findings(Kind.EMPTY)
        for number, file in enumerate(self._source.files):
            if number not in self._filled:
                found.add(file.name, None, "has no rows")
        return found

    def treat(self, batches: Iterator[list[Origin]], say: Callable[[str], None]) -> None:
        """Read, encode and write all rows: a batch is tokenised in a thread while its neighbours are read and written.

        The tokenizer runs without Python's lock, and the rest of the work costs as much again.
        """
        waiting: tuple[_Readable, Future[list[Any]]] | None = None
        with ThreadPoolExecutor(1) as tokenizer:
            for number, batch in enumerate(batches):
                readable = self._read(batch)
                encodings = tokenizer.submit(self._encoder.tokenize, readable.rows)
                if waiting is not None:
                    self._write(*waiting)
                waiting = readable, encodings
                if number % 10 == 0:
                    say(f"read {self.seen} rows of {self._source.name}")
            if waiting is not None:
                self._write(*waiting)

    def _read(self, batch: list[Origin]) -> _Readable:
        self.seen += len(batch)
        readable = _Readable([], [])
        for origin in batch:
            self._filled.add(origin.file)
            try:
                if isinstance(origin.record.row, RowError):
                    raise origin.record.row
                readable.rows.append(self._encoder.render(self._reader(origin.record.row)))
                readable.origins.append(origin)
            except RowError as error:
                self._reject(origin, error)
        return readable

    def _write(self, readable: _Readable, encodings: Future[list[Any]]) -> None:
        results = self._encoder.label(readable.rows, encodings.result())
        for origin, result in zip(readable.origins, results, strict=True):
            if isinstance(result, RowError):
                self._reject(origin, result)
            else:
                self._keep(origin, result)

    def _reject(self, origin: Origin, error: RowError) -> None:
        name, record = self._source.files[origin.file].name, origin.record
        self.invalid.add(name, record.line, error)
        if self._skips:
            self._quarantine.add(name, record.line, error, record.raw)

    def _keep(self, origin: Origin, row: Row) -> None:
        self.tally.measure(row)
        place = self._source.files[origin.file].name, origin.record.line
        if len(row) > self._options.max_length:
            overlong = self._options.dataset.overlong
            if overlong is Overlong.SPLIT:
                self._split(origin, row)
                return
            if overlong is not Overlong.TRUNCATE or not row.cut(self._options.max_length).items:
                self.tally.drop(row, *place)
                return
            row = self.tally.truncate(row, *place)
        self.tally.keep(row, *place)
        self._writer.add(row, origin.file, origin.record.line)

    def _split(self, origin: Origin, row: Row) -> None:
        name, line = self._source.files[origin.file].name, origin.record.line
        windows = row.windows(self._options.max_length) if isinstance(row, Targeted) and row.windows else []
        if not windows:
            self.tally.drop(row, name, line)
            return
        self.tally.split(row, windows, name, line)
        for number, window in enumerate(windows):
            self._writer.add(window, origin.file, line, number)
