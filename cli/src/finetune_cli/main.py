"""The command `finetune`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from finetune_api.names import Stage
from finetune_cli import jobfile, plan
from finetune_cli.errors import UsageError
from finetune_cli.run import run as run_plan
from finetune_cli.validate import validate as validate_files

HELP = """
Fine-tune a model from one job file, with or without a cluster.

A job file is a FineTuneJob in YAML: a base model, a dataset, a method, and a place for the adapter. `kubectl apply`
gives it to a cluster that runs finetune-operator; `finetune run` runs the very same trainer on this machine.
"""
EXAMPLES = """
Examples:

finetune validate *.yaml: would the API server take these?

finetune prepare job.yaml: is the dataset fit to train on, and what memory will it take?

finetune run job.yaml: train here. Ctrl-C saves a checkpoint, the same command resumes.

finetune run jobs.yaml --name mine: one job of a file that holds several.

URIs are file://, s3:// or hf:// here; file://./rows.jsonl is relative to the job file.
"""

app = typer.Typer(
    help=HELP, epilog=EXAMPLES, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

_Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Job files (YAML, one or more documents).")]
_File = Annotated[Path, typer.Argument(metavar="FILE", help="Job file (YAML).")]
_Name = Annotated[str | None, typer.Option(help="Which job, where the file holds several.")]
_WorkDir = Annotated[
    Path | None,
    typer.Option(help="Scratch folder of the run. Unset: one of the job's own below ~/.cache/finetune."),
]
_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the trainer's log too.")]


@app.command()
def validate(files: _Files) -> None:
    """Check job files as the API server would: every problem with file, document, field and message.

    The exit code is 0 when all are valid, else 1.
    """
    if not validate_files(files, Console()):
        raise typer.Exit(1)


@app.command()
def run(file: _File, name: _Name = None, work_dir: _WorkDir = None, verbose: _Verbose = False) -> None:
    """Run a job on this machine: no cluster, no root.

    Ctrl-C saves a checkpoint and stops; the same command goes on from there. A changed job starts anew. The exit code
    is the trainer's: 0 published, 64 to 66 something in the job to put right, 75 stopped and resumable.
    """
    sys.exit(_run(file, name, work_dir, Stage.TRAIN, verbose=verbose))


@app.command()
def prepare(file: _File, name: _Name = None, work_dir: _WorkDir = None, verbose: _Verbose = False) -> None:
    """Check a job's dataset and settings on this machine, without training: no GPU is needed.

    Reads and tokenizes every row, names those that cannot be used with file and line, shows what is trained, and tells
    the memory that training will take. `finetune run` of the same job goes on with these rows. The exit code is the
    trainer's: 0 ready, 64 to 66 something in the job to put right.
    """
    sys.exit(_run(file, name, work_dir, Stage.PREPARE, verbose=verbose))


def _run(file: Path, name: str | None, work_dir: Path | None, stage: Stage, *, verbose: bool) -> int:
    console = Console()
    try:
        planned = plan.make(jobfile.choose(jobfile.read(file), name), work_dir, stage)
        return run_plan(planned, console, verbose=verbose)
    except UsageError as error:
        text = Text.assemble(error.message, *([("\n" + error.remedy, "bold")] if error.remedy else []))
        console.print(Panel(text, title="cannot run", border_style="red", expand=False))
        return error.exit_code
