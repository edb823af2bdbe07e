"""A whole source: look at every row once, write the good ones as shards, and say what is wrong with the rest.

No row is left out without being counted, and none is trained that did not pass.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.dataset import Dataset
from finetune_trainer.data.detect import FIRST, row_reader
from finetune_trainer.data.doctor import Doctor
from finetune_trainer.data.encoder import row_encoder
from finetune_trainer.data.findings import Quarantine
from finetune_trainer.data.options import Options
from finetune_trainer.data.report import describe, show, write_part
from finetune_trainer.data.shards import QUARANTINE, Rows, ShardWriter, discard
from finetune_trainer.data.source import BrokenSourceError, Origin, Source, read_source
from finetune_trainer.data.verdict import judge
from finetune_trainer.errors import RunError

__all__ = ["Options", "prepare"]

BATCH = 500
"""Rows that are tokenised in one call: enough to keep the tokenizer's threads busy, few enough to stay small."""
Say = Callable[[str], None]


def prepare(source: Source, options: Options, tokenizer: Any, folder: Path, key: str, say: Say) -> None:
    """Read, check and tokenise a source into a folder of shards (see `shards`), with the skipped rows beside them.

    What was found is beside them, too (see `report`), also where it is refused; whoever finds the shards finds it.

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
    reader = row_reader(source, first, options, say)
    encoder = row_encoder(options, reader.format.name, tokenizer)
    quarantine = Quarantine(folder / QUARANTINE)
    with ShardWriter(folder, targeted=options.task.type is not TaskType.CAUSAL_LM) as writer:
        doctor = Doctor(source, options, reader, encoder, writer, quarantine)
        try:
            doctor.treat(_batches(chain(first, origins)), say)
        finally:
            quarantine.close()
    names, sources = [file.name for file in source.files], [file.source for file in source.files]
    if encoder.labels:
        writer.renumber(encoder.labels.order)
    rows, tally = Rows(folder, names, sources), doctor.tally
    tally.compare(rows)
    dataset = Dataset(rows, tally.facts(source.sha256, reader.format.name, doctor.invalid.count))
    part = describe(source, doctor, dataset)
    try:
        judge(source, options, doctor, say)
        labels = encoder.labels.names(source.name) if encoder.labels else []
    except RunError as error:
        write_part(folder, {**part, "refused": f"{error.reason}: {error.message}"})
        raise
    dataset = replace(dataset, facts=replace(dataset.facts, labels=labels))
    write_part(folder, {**part, "shown": show(dataset, tokenizer, options)} if options.trains else part)
    writer.finish(key, names, dataset.facts, sources)
    say(f"{source.name}: {tally.summary()}")


def _origins(source: Source) -> Iterator[Origin]:
    try:
        yield from read_source(source)
    except BrokenSourceError as error:
        raise RunError(
            Reason.INVALID_DATASET, str(error), "Write the file again; how many rows are lost is not known."
        ) from error


def _batches(origins: Iterator[Origin]) -> Iterator[list[Origin]]:
    while batch := list(islice(origins, BATCH)):
        yield batch
