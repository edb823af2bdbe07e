"""Tell how the rows of a source are read: as the job file says, or as their first columns do."""

from collections.abc import Callable

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import DataFormat
from finetune_trainer.data.findings import InvalidRows, RowError
from finetune_trainer.data.formats import Renamed, RowReader, choose, formats_of
from finetune_trainer.data.options import Options
from finetune_trainer.data.source import Origin, Source
from finetune_trainer.errors import RunError

FIRST = 100
"""Rows by which `format: Auto` decides."""


def row_reader(source: Source, first: list[Origin], options: Options, say: Callable[[str], None]) -> RowReader:
    """Choose the format; `first` are the source's first rows, at least one.

    Raises:
        RunError: InvalidDataset: the first rows do not tell.
    """
    dataset, formats = options.dataset, formats_of(options.task.type)
    renamed, roles = Renamed(dataset.columns), {name: role.value for name, role in dataset.roles.items()}
    if dataset.format is not DataFormat.AUTO:
        return RowReader(formats[dataset.format], renamed, roles)
    readable = [origin.record.row for origin in first if not isinstance(origin.record.row, RowError)]
    if not readable:
        raise _unreadable(source, first)
    format_, why = choose(readable, renamed, formats)
    if format_ is None:
        raise RunError(
            Reason.INVALID_DATASET,
            f"the format of {source.name} cannot be told for task.type {options.task.type}: {why}",
            "Set dataset.format, and dataset.columns where columns have other names.",
        )
    say(f"{source.name}: read as {format_.name}, for {why}")
    return RowReader(format_, renamed, roles, formats)


def _unreadable(source: Source, first: list[Origin]) -> RunError:
    findings = InvalidRows()
    for origin in first:
        if isinstance(origin.record.row, RowError):
            findings.add(source.files[origin.file].name, origin.record.line, origin.record.row)
    return RunError(
        Reason.INVALID_DATASET,
        f"none of the first {len(first)} rows can be used: {findings}",
        "Correct these lines and create the job again; nothing was trained.",
    )
