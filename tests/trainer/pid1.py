"""The trainer's PID 1 as a process of its own, over a worker made of a few lines (see supervised.py)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from finetune_api.outcome import MAX_MESSAGE_BYTES, Outcome
from finetune_trainer.workdir import WorkDir

TIMEOUT = 60
READY = 'say("ready"); time.sleep(100)\n'


def pid1_run_file(folder: Path, **changes: object) -> Path:
    """Write a run file with these parts changed."""
    document = {
        "name": "bot",
        "namespace": "local",
        "uid": "uid-1",
        "method": {},
        "training": {},
        "evaluation": {},
        "model": {"uri": f"file://{folder}/model"},
        "storage": {},
        "output": {"uri": f"file://{folder}/out"},
        "dataset": {"train": {"uri": f"file://{folder}/rows.jsonl"}},
    }
    (folder / "run.json").write_text(json.dumps(document | changes))
    return folder / "run.json"


class Supervised:
    """A trainer under test."""

    def __init__(self, folder: Path, worker: str, *options: str, **changes: object) -> None:
        self.work = WorkDir(folder / "work")
        self._log = folder / "termination-log"
        program = [sys.executable, str(Path(__file__).with_name("supervised.py")), worker]
        arguments = ["--run-file", str(pid1_run_file(folder, **changes)), "--work-dir", str(self.work.root)]
        self.process = subprocess.Popen(
            [*program, *arguments, "--termination-log", str(self._log), "--port", "0", *options],
            env={**os.environ, "TEST_WORK": str(self.work.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, word: str) -> str:
        """Read the output up to a line that starts with this word, and return the line."""
        assert self.process.stdout
        return next(line for line in self.process.stdout if line.split()[:1] == [word])

    def ended(self) -> tuple[int, Outcome, str]:
        """The exit code, the termination message, and the rest of the output."""
        assert self.process.stdout
        output = self.process.stdout.read()
        self.process.wait(timeout=TIMEOUT)
        text = self._log.read_text()
        assert len(text.encode()) <= MAX_MESSAGE_BYTES
        return self.process.returncode, Outcome.from_termination_message(text), output


Start = Callable[..., Supervised]
