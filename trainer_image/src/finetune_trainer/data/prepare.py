"""The doctor: look at every row of a source once, write the good ones as shards, and say what is wrong with the rest.

No row is left out without being counted, and none is trained that did not pass.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import DataFormat, Dataset, InvalidRowPolicy, Overlong
from finetune_trainer.data.encode import Encoder, Rendered
from finetune_trainer.data.findings import Findings, Kind, Quarantine, RowError
from finetune_trainer.data.formats import FORMATS, Renamed, RowReader, choose
from finetune_trainer.data.shards import QUARANTINE, ShardWriter, discard
from finetune_trainer.data.source import BrokenSourceError, Origin, Source, read_source
from finetune_trainer.data.tally import Tally
from finetune_trainer.data.tokens import Labelled
from finetune_trainer.errors import RunError

BATCH = 500
"""Rows that are tokenised in one call: enough to keep the tokenizer's threads busy, few enough to stay small."""
FIRST = 100
"""Rows by which `format: Auto` decides."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What decides, beside the rows themselves, what is trained."""

    dataset: Dataset
    max_length: int
    """Longest row in tokens."""
    trains: bool = True
    """False for held-out rows: from them nobody learns when to stop."""


def prepare(source: Source, options: Options, tokenizer: Any, folder: Path, key: str, say: Say) -> None:
    """Read, check and tokenise a source into a folder of shards (see `shards`), with the skipped rows beside them.

    Args:
        source: The files.
        options: How they are read.
        tokenizer: A fast tokenizer.
        folder: Where the shards go.
        key: Names the shards (see `key`).
        say: Takes sentences about progress.

    Raises:
        RunError: InvalidDataset (file:line), EmptyDataset, TooManyInvalidRows, or InvalidConfiguration.
    """
    discard(folder)
    origins = _origins(source)
    first = list(islice(origins, FIRST))
    if not first:
        raise RunError(
            Reason.EMPTY_DATASET,
            f"{source.name} has no rows",
            "Write one JSON object a line, for instance with `messages`.",
        )
    reader = _reader(source, first, options.dataset, say)
    encoder = Encoder(reader.format.name, options.dataset.train_on, tokenizer)
    quarantine = Quarantine(folder / QUARANTINE)
    with ShardWriter(folder) as writer:
        doctor = Doctor(source, options, reader, encoder, writer, quarantine)
        try:
            doctor.treat(_batches(chain(first, origins)), say)
        finally:
            quarantine.close()
        doctor.judge(say)
        facts = doctor.tally.facts(source.sha256, reader.format.name, doctor.invalid.count)
        writer.finish(key, [file.name for file in source.files], facts)
    say(f"{source.name}: {doctor.tally}")


@dataclass(frozen=True)
class _Readable:
    """The rows of a batch that could be read, and where each is from."""

    rows: list[Rendered]
    origins: list[Origin]


class Doctor:
    """Treats the rows of one source."""

    def __init__(
        self,
        source: Source,
        options: Options,
        reader: RowReader,
        encoder: Encoder,
        writer: ShardWriter,
        quarantine: Quarantine,
    ) -> None:
        self.seen = 0
        self.invalid = Findings()
        self.tally = Tally(options.max_length)
        self._source = source
        self._options = options
        self._reader = reader
        self._encoder = encoder
        self._writer = writer
        self._quarantine = quarantine
        self._skips = options.dataset.invalid_rows.policy is InvalidRowPolicy.SKIP
        self._too_long = Findings()
        self._filled: set[int] = set()
        """Numbers of the files that have rows."""

    def treat(self, batches: Iterator[list[Origin]], say: Say) -> None:
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

    def judge(self, say: Say) -> None:
        """Say whether what was seen may be trained.

        Raises:
            RunError: It may not.
        """
        empty = [file.name for number, file in enumerate(self._source.files) if number not in self._filled]
        if empty:
            say(f"{self._source.name}: {len(empty)} files have no rows, for instance {empty[0]}")
        if self.invalid.count:
            self._judge_invalid(say)
        if self._too_long.count:
            raise RunError(
                Reason.INVALID_DATASET,
                f"{self._too_long.count} of {self.seen} rows are too long: {self._too_long}",
                "Shorten them, raise training.maxLength, or set dataset.overlong: Drop or Truncate.",
            )
        if not self.tally.rows:
            raise RunError(
                Reason.EMPTY_DATASET,
                f"no row of {self._source.name} is left to train: {self.tally.emptiness(self.seen)}",
                "Raise training.maxLength or shorten the rows.",
            )
        if self._options.trains and not self.tally.stopping:
            raise RunError(
                Reason.INVALID_DATASET,
                f"in none of the {self.tally.rows} rows of {self._source.name} is a token trained that ends a turn "
                "(the tokenizer's eos_token, or another special token at the turn's end): the model would never stop",
                "Use a chat template that ends the assistant's turn with such a token, and rows that are not cut off.",
            )

    def _judge_invalid(self, say: Say) -> None:
        bad, limit = self.invalid.count, self._options.dataset.invalid_rows.max_percent
        sentence = f"{bad} of {self.seen} rows cannot be used: {self.invalid}"
        if not self._skips or limit is None:
            raise RunError(
                Reason.INVALID_DATASET,
                sentence,
                "Correct or remove these lines and create the job again; nothing was trained or uploaded.",
            )
        if 100 * bad > limit * self.seen:
            raise RunError(
                Reason.TOO_MANY_INVALID_ROWS,
                f"more than {limit} % of {self._source.name} (dataset.invalidRows.maxPercent): {sentence}",
                "Correct the rows, which are all in quarantine.jsonl, or raise maxPercent.",
            )
        say(f"{self._source.name}: skipped, and written to quarantine.jsonl: {sentence}")

    def _reject(self, origin: Origin, error: RowError) -> None:
        name, record = self._source.files[origin.file].name, origin.record
        self.invalid.add(name, record.line, error)
        if self._skips:
            self._quarantine.add(name, record.line, error, record.raw)

    def _keep(self, origin: Origin, row: Labelled) -> None:
        self.tally.measure(row)
        if len(row) > self._options.max_length:
            overlong = self._options.dataset.overlong
            if overlong is Overlong.FAIL:
                error = RowError(f"has {len(row)} tokens, over maxLength {self._options.max_length}", Kind.TOO_LONG)
                self._too_long.add(self._source.files[origin.file].name, origin.record.line, error)
                return
            if overlong is Overlong.DROP or not row.cut(self._options.max_length).trained.any():
                self.tally.drop()
                return
            row = self.tally.truncate(row)
        self.tally.keep(row)
        self._writer.add(row, origin.file, origin.record.line)


def _origins(source: Source) -> Iterator[Origin]:
    try:
        yield from read_source(source)
    except BrokenSourceError as error:
        raise RunError(
            Reason.INVALID_DATASET, str(error), "Write the file again; how many rows are lost is not known."
        ) from error


def _reader(source: Source, first: list[Origin], dataset: Dataset, say: Say) -> RowReader:
    renamed, roles = Renamed(dataset.columns), {name: role.value for name, role in dataset.roles.items()}
    if dataset.format is not DataFormat.AUTO:
        return RowReader(FORMATS[dataset.format], renamed, roles, chosen=False)
    readable = [origin.record.row for origin in first if not isinstance(origin.record.row, RowError)]
    if not readable:
        findings = Findings()
        for origin in first:
            if isinstance(origin.record.row, RowError):
                findings.add(source.files[origin.file].name, origin.record.line, origin.record.row)
        raise RunError(
            Reason.INVALID_DATASET,
            f"none of the first {len(first)} rows can be used: {findings}",
            "Correct these lines and create the job again; nothing was trained or uploaded.",
        )
    format_, why = choose(readable, renamed)
    if format_ is None:
        raise RunError(
            Reason.INVALID_DATASET,
            f"the format of {source.name} cannot be told: {why}",
            "Set dataset.format, and dataset.columns where columns have other names.",
        )
    say(f"{source.name}: read as {format_.name}, for {why}")
    return RowReader(format_, renamed, roles, chosen=True)


def _batches(origins: Iterator[Origin]) -> Iterator[list[Origin]]:
    while batch := list(islice(origins, BATCH)):
        yield batch
