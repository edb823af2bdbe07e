"""What people and PID 1 hear of a run: log lines, the progress file and metrics.jsonl. Only rank 0 talks."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from finetune_api.names import ActiveReason
from finetune_api.progress import Progress
from finetune_trainer.workdir import WorkDir

log = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
"""The progress file is written at most this often within a phase."""
CHATTER_SECONDS = 5.0
"""Download and tokenizer progress reaches the log at most this often."""


class Reporter:
    """Keeps the current Progress and writes it out."""

    def __init__(self, name: str, work: WorkDir, *, talks: bool) -> None:
        self.progress = Progress()
        self.saved_step = 0
        """Step of the newest checkpoint, saved or restored; PID 1 knows whether it has reached storage."""
        self._name = name
        self._work = work
        self._talks = talks
        self._written = 0.0
        self._chattered = 0.0
        self._warm: tuple[float, float] | None = None
        """When the first piece of this session was done, and how many steps that made."""

    @property
    def metrics_file(self) -> Path:
        """Every logged number of the run, one JSON object a line."""
        return self._work.root / "metrics.jsonl"

    def phase(self, phase: ActiveReason, sentence: str) -> None:
        """Enter a phase."""
        self.progress.phase = phase
        self.say(sentence)

    def say(self, sentence: str) -> None:
        """Log a sentence and show it as the progress message, at once."""
        if self._talks:
            log.info("%s: %s", self._name, sentence)
        self._show(sentence)

    def chatter(self, sentence: str) -> None:
        """Show one of many sentences of a long work; the log gets only some of them."""
        now = time.monotonic()
        if now - self._chattered >= CHATTER_SECONDS:
            self._chattered = now
            self.say(sentence)
        elif now - self._written >= WRITE_SECONDS:
            self._show(sentence)

    def start_training(self, step: int, total: int, history: list[dict[str, Any]]) -> None:
        """Begin this session at `step` of `total`; `history` holds what earlier sessions logged."""
        self._warm, self.progress.eta_seconds = None, None
        self.progress.step, self.progress.total_steps, self.progress.resumed_from = step, total, step
        if self._talks:
            self.metrics_file.write_text("".join(f"{json.dumps(entry)}\n" for entry in history))
        self.phase(ActiveReason.TRAINING, f"training from step {step} of {total}")

    def advance(self, step: int, epoch: float, part: float = 0.0) -> None:
        """Tell that `step` steps and `part` of the next are done; the file is written when it is due."""
        progress = self.progress
        progress.step, progress.epoch = step, epoch
        progress.eta_seconds = self._seconds_left(step + part)
        if time.monotonic() - self._written >= WRITE_SECONDS:
            self._show(f"step {step} of {progress.total_steps}")

    def metrics(self, step: int, entry: dict[str, Any]) -> None:
        """Record one log entry of the Trainer: training loss and learning rate, or an evaluation loss."""
        if self._talks:
            with self.metrics_file.open("a") as file:
                file.write(f"{json.dumps({**entry, 'step': step})}\n")
        if "loss" in entry:
            self.progress.loss, self.progress.learning_rate = entry["loss"], entry.get("learning_rate")
            eta = f", about {_duration(self.progress.eta_seconds)} left" if self.progress.eta_seconds else ""
            self.say(f"step {step}/{self.progress.total_steps}, loss {entry['loss']:.4f}{eta}")

    def _seconds_left(self, done: float) -> int | None:
        """At the pace of this session after its first piece, which pays for warming up."""
        now = time.monotonic()
        if self._warm is None:
            self._warm = now, done
            return None
        since, before = self._warm
        return round((now - since) / (done - before) * (self.progress.total_steps - done))

    def _show(self, sentence: str) -> None:
        self.progress.message = sentence
        self._written = time.monotonic()
        if self._talks:
            self._work.write_progress(self.progress)


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
