"""Trainers that cost no import of torch: a helper of the soak tests, run as a program.

Reads lines `RUN_FILE WORK_DIR LOG`, forks for each, and answers with the process id and, at its end, with its exit
code. The child is PID 1 as it is; only its worker is forked, too, instead of started as a new interpreter. Whenever the
run comes to one of the PLACES for the nth time, the file `WORK_DIR/places/PLACE-N` appears.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3  # noqa: F401 - so that no child has to

import finetune_trainer.__main__ as pid1
from finetune_trainer import worker
from finetune_trainer.publish import CheckpointStore, Outbox
from finetune_trainer.storage import s3  # noqa: F401 - likewise
from finetune_trainer.supervisor import processes, supervise
from finetune_trainer.training import finish, fit, reporter, run, start, trainer  # noqa: F401 - likewise
from finetune_trainer.training.snapshot import Snapshot

PLACES: dict[str, tuple[Any, str]] = {
    "inputs": (run, "bring_inputs"),
    "load": (fit, "load_base"),
    "measure": (fit, "measure"),
    "restore": (CheckpointStore, "restore_newest"),
    "step": (trainer.SupervisedTrainer, "training_step"),
    "evaluate": (trainer, "measure"),
    "save": (trainer.SupervisedTrainer, "_save_checkpoint"),
    "write": (Snapshot, "write"),
    "offer": (Outbox, "put"),
    "upload": (CheckpointStore, "save"),
    "prune": (CheckpointStore, "prune"),
    "verify": (finish, "check_saved"),
    "publish": (finish, "publish"),
}


def _mark(folder: Path) -> None:
    """Let the files appear."""
    counts: Counter[str] = Counter()

    def marking(place: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*arguments: Any, **keywords: Any) -> Any:
            counts[place] += 1
            (folder / f"{place}-{counts[place]}").touch()
            return real(*arguments, **keywords)

        return marked

    folder.mkdir(parents=True)
    for place, (owner, name) in PLACES.items():
        setattr(owner, name, marking(place, getattr(owner, name)))


class _Forked:
    """What `supervise` needs of subprocess.Popen."""

    returncode: int | None = None

    def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
        ours, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.dup2(theirs, 2)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.environ.clear()
            os.environ.update(env)
            processes.die_with_parent()
            processes.write_stacks_on_request()
            pid1.leave(worker.main(command[command.index("--run-file") :]))
        os.close(theirs)
        self.stderr = os.fdopen(ours, "rb")


def _trainer(run_file: str, work: str, log: str) -> None:
    output = os.open(f"{log}.output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _mark(Path(work) / "places")
    reporter.WRITE_SECONDS = 0.0
    supervise.subprocess.Popen = _Forked  # type: ignore[assignment, misc]
    pid1.leave(pid1.main(["--run-file", run_file, "--work-dir", work, "--termination-log", log, "--port", "0"]))


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _trainer(*line.split())
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()
