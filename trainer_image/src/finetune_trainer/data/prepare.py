"""A whole source: look at every row once, write the good ones as shards, and say what is wrong with the rest.

No row is left out without being counted, and none is trained that did not pass.
"""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.detect import FIRST, row_reader
from finetune_trainer.data.doctor import Doctor
from finetune_trainer.data.encoder import row_encoder
from finetune_trainer.data.findings import Quarantine
from finetune_trainer.data.options import Options
from finetune_trainer.data.shards import QUARANTINE, ShardWriter, discard
from finetune_trainer.data.source import BrokenSourceError, Origin, Source, read_source
from finetune_trainer.data.verdict import judge
from finetune_trainer.errors import RunError

__all__ = ["Options", "prepare"]

BATCH = 500
"""Rows that are tokenised in one call: enough to keep the tokenizer's threads busy, few enough to stay small."""
Say = Callable[[str], None]


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
    reader = row_reader(source, first, options, say)
    encoder = row_encoder(options, reader.format.name, tokenizer)
    quarantine = Quarantine(folder / QUARANTINE)
    with ShardWriter(folder, targeted=options.task.type is not TaskType.CAUSAL_LM) as writer:
        doctor = Doctor(source, options, reader, encoder, writer, quarantine)
        try:
            doctor.treat(_batches(chain(first, origins)), say)
        finally:
            quarantine.close()
        judge(source, options, doctor, say)
        names = encoder.labels.names(source.name) if encoder.labels else []
        facts = doctor.tally.facts(source.sha256, reader.format.name, doctor.invalid.count, names)
        writer.finish(
            key,
            [file.name for file in source.files],
            facts,
            encoder.labels.order if encoder.labels else None,
            [file.source for file in source.files],
        )
    say(f"{source.name}: {doctor.tally.summary([file.name for file in source.files])}")


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
