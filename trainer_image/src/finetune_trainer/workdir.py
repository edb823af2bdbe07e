"""The scratch folder of a run: who writes what where.

Worker and PID 1 talk through two files here, each replaced in one step so that a reader never sees half of one.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetune_api.outcome import Outcome
from finetune_api.progress import Progress


@dataclass(frozen=True)
class WorkDir:
    """Paths below one run's scratch folder."""

    root: Path

    @property
    def model(self) -> Path:
        """The base model, as downloaded."""
        return self.root / "model"

    @property
    def data(self) -> Path:
        """The dataset files, as downloaded."""
        return self.root / "data"

    @property
    def quarantine(self) -> Path:
        """The rows of all sources that were skipped, where there are any."""
        return self.root / "quarantine.jsonl"

    @property
    def staging(self) -> Path:
        """Where a folder is put together before it goes to its place."""
        return self.root / "staging"

    @property
    def adapter(self) -> Path:
        """The trained adapter and what is published with it."""
        return self.root / "adapter"

    @property
    def published(self) -> Path:
        """The published adapter, downloaded again."""
        return self.root / "published"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of this process's run."""
        return self.root / "checkpoints"

    @property
    def given_adapter(self) -> Path:
        """The adapter to train on, as downloaded."""
        return self.root / "given-adapter"

    @property
    def start(self) -> Path:
        """The adapter before its first step, where the end needs it."""
        return self.root / "start"

    @property
    def outbox(self) -> Path:
        """Whole checkpoints on their way to storage."""
        return self.root / "outbox"

    @property
    def progress_file(self) -> Path:
        """Where the worker says how far it is."""
        return self.root / "progress.json"

    @property
    def outcome_file(self) -> Path:
        """Where the worker says how it ended."""
        return self.root / "outcome.json"

    def write_progress(self, progress: Progress) -> None:
        """Replace the progress file, stamped with the time. It never decides anything: a full disk is no end here."""
        stamped = progress.model_copy(update={"updated_at": time.time()})
        with suppress(OSError):
            _replace(self.progress_file, stamped.model_dump_json(by_alias=True, exclude_none=True))

    def read_progress(self) -> Progress | None:
        """The last progress written, or None before the first."""
        return Progress.model_validate_json(self.progress_file.read_bytes()) if self.progress_file.exists() else None

    def write_outcome(self, outcome: Outcome) -> None:
        """Replace the outcome file."""
        _replace(self.outcome_file, outcome.to_termination_message())

    def read_outcome(self) -> Outcome | None:
        """The outcome, or None where the worker died without a word."""
        return Outcome.from_termination_message(self.outcome_file.read_text()) if self.outcome_file.exists() else None


_SPOKEN = "finetune-outcome: "


def spoken(outcome: Outcome) -> str:
    """The outcome as a line of the log, for a disk that takes nothing any more."""
    return _SPOKEN + outcome.to_termination_message()


def heard(log: str) -> Outcome | None:
    """The outcome that was spoken in a log, or None."""
    lines = [line for line in log.splitlines() if line.startswith(_SPOKEN)]
    return Outcome.from_termination_message(lines[-1].removeprefix(_SPOKEN)) if lines else None


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
