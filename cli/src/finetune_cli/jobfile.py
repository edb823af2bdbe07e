"""Reads job files: what is valid where, and file:// URIs relative to the job file."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from finetune_api.load import InvalidJobFileError, Problem, load_jobs
from finetune_api.v1alpha1 import FineTuneJob, source_uris
from finetune_cli.errors import UsageError

_RELATIVE = re.compile(r"""file://(\.{1,2}/[^\s"',}\]]*)""")


@dataclass(frozen=True)
class JobFile:
    """What a file holds, as a cluster and as this machine judge it."""

    path: Path
    jobs: list[FineTuneJob]
    """All jobs, with file:// URIs allowed; empty where there are problems."""
    problems: list[Problem]
    """Why neither a cluster nor this machine would take the file."""
    local_uris: list[str]
    """The file:// URIs in it: this machine takes them, a cluster does not."""


def read(path: Path) -> JobFile:
    """Read and judge a file.

    Raises:
        UsageError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8 (byte {error.start})") from error
    folder = path.resolve().parent
    text = _RELATIVE.sub(lambda found: f"file://{_absolute(folder, found[1])}", text)
    try:
        jobs = load_jobs(text, local=True)
    except InvalidJobFileError as error:
        return JobFile(path, [], error.problems, [])
    return JobFile(path, jobs, [], [uri for job in jobs for uri in uris(job) if uri.startswith("file://")])


def _absolute(folder: Path, path: str) -> str:
    """A path without its dots; a slash at the end stays, for it makes a prefix of a dataset's URI."""
    return os.path.normpath(folder / path) + ("/" if path.endswith("/") else "")


def uris(job: FineTuneJob) -> list[str]:
    """All URIs of a job: model, datasets, output."""
    return [*source_uris(job.spec.model, job.spec.dataset), job.spec.output.uri]


def choose(file: JobFile, name: str | None) -> FineTuneJob:
    """Return the one job to run.

    Raises:
        UsageError: The file is not valid, or does not say which job is meant.
    """
    if file.problems:
        findings = "\n".join(f"  {problem}" for problem in file.problems)
        raise UsageError(f"{file.path} is not valid:\n{findings}", "finetune validate checks without running")
    names = [job.metadata.name for job in file.jobs]
    if name is None and len(file.jobs) > 1:
        raise UsageError(f"{file.path} holds {len(names)} jobs", f"choose one with --name: {', '.join(names)}")
    found = [job for job in file.jobs if name in (None, job.metadata.name)]
    if len(found) != 1:
        what = "no job" if not found else f"{len(found)} jobs"
        raise UsageError(f"{file.path} holds {what} named {name}", f"it holds: {', '.join(names)}")
    return found[0]
