"""`finetune validate`: the verdict of the API server, without one."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from finetune_api.v1alpha1 import FineTuneJob
from finetune_cli import jobfile
from finetune_cli.errors import UsageError


def validate(paths: list[Path], console: Console) -> bool:
    """Print a verdict for each job and each problem; tell whether all is well."""
    verdicts = [_validate_one(path, console) for path in paths]  # each file gets one, whatever the others are
    return all(verdicts)


def _validate_one(path: Path, console: Console) -> bool:
    try:
        file = jobfile.read(path)
    except UsageError as error:
        _say(console, "red", "cannot be read", error.message)
        return False
    for problem in file.problems:
        _say(console, "red", "invalid", f"{path}: {problem}")
    for job in file.jobs:
        _say(console, "green", "valid", f"{path}: {job.metadata.name}")
        for remark in _remarks(job):
            console.print(Text(f"       {remark}", style="yellow"), soft_wrap=True)
    return not file.problems


def _remarks(job: FineTuneJob) -> Iterator[str]:
    """What is allowed, but not everywhere."""
    schemes = {uri.split("://")[0] for uri in jobfile.uris(job)}
    if "file" in schemes:
        yield "file:// URIs are for `finetune run` on this machine; a cluster refuses them"
    if "pvc" in schemes:
        yield "pvc:// URIs are for a cluster; `finetune run` refuses them"


def _say(console: Console, style: str, verdict: str, text: str) -> None:
    console.print(Text.assemble((verdict, style), "  ", text), soft_wrap=True)
