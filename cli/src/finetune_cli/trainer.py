"""The trainer as a subprocess: start it, hear what it says, ask it to stop, collect its verdict."""

import fcntl
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

from pydantic import ValidationError

from finetune_api.outcome import Outcome
from finetune_api.progress import Progress
from finetune_cli.errors import UsageError
from finetune_cli.plan import Plan

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Trainer:
    """One run of the trainer, in a session of its own: the terminal's Ctrl-C reaches this process only."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._asked = 0
        plan.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(plan.folder)
        plan.run_file.write_text(plan.run.to_json())
        for stale in (plan.progress_file, plan.verdict_file):
            stale.unlink(missing_ok=True)
        with plan.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                plan.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **plan.environment},
                pass_fds=[self._lock.fileno()],  # so that the folder stays taken for as long as the trainer lives
                start_new_session=True,
            )
        self._log = plan.log_file.open("rb")
        self._previous = {number: signal.signal(number, self._on_signal) for number in _STOP_SIGNALS}

    @property
    def asked_to_stop(self) -> bool:
        """Whether somebody pressed Ctrl-C or sent SIGTERM."""
        return self._asked > 0

    def ended(self, timeout: float) -> bool:
        """Wait a little; tell whether it is over."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
            return True
        return False

    @property
    def code(self) -> int:
        """The exit code, as a shell would give it."""
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def new_lines(self) -> str:
        """What it has written to its log since the last call."""
        return self._log.read().decode(errors="replace")

    def last_lines(self, count: int = 12) -> list[str]:
        """The end of its log."""
        return self._plan.log_file.read_text(errors="replace").splitlines()[-count:]

    def progress(self) -> Progress | None:
        """How far it is; None before it has said so."""
        with suppress(OSError, ValidationError):
            return Progress.model_validate_json(self._plan.progress_file.read_bytes())
        return None

    def outcome(self) -> Outcome | None:
        """How it ended; None where it died without a word."""
        with suppress(OSError, ValidationError):
            return Outcome.from_termination_message(self._plan.verdict_file.read_text())
        return None

    def close(self) -> None:
        """End the trainer if it still runs, as after an error of ours; give signals and folder free."""
        self._signal(signal.SIGTERM)  # not SIGKILL: it ends its own processes first
        self._process.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._log.close()
        self._lock.close()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """Ask once to save and stop; at the second Ctrl-C, end it at once."""
        self._asked += 1
        if self._asked == 1:
            self._signal(signal.SIGTERM)
        elif number == signal.SIGINT:
            self._signal(signal.SIGINT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)


def _lock(folder: Path) -> IO[bytes]:
    """Take the folder; two trainers in one would write over each other's files."""
    lock = (folder / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UsageError(
            f"this job already runs in {folder}", "wait for it, stop it, or give another --work-dir", exit_code=1
        ) from error
    return lock
