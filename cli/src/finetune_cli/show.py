"""What `finetune run` shows on the way: a live bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from finetune_api.progress import Progress

PLAIN_SECONDS = 10.0
"""On no terminal, a line at each change of phase and at least this often."""


class Display(Protocol):
    """Shows progress from enter to exit."""

    def __enter__(self) -> Self:
        """Start showing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""

    def update(self, progress: Progress | None, *, stopping: bool) -> None:
        """Show the newest progress; called several times a second."""


def display(console: Console) -> Display:
    """Choose for this console."""
    return LiveBar(console) if console.is_terminal else PlainLines(console)


class LiveBar:
    """Phase, bar, step, loss, time left, on one line that changes in place."""

    def __init__(self, console: Console) -> None:
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.fields[phase]:<11}", style="bold cyan"),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            refresh_per_second=8,
        )
        self._task = self._bar.add_task("", total=None, phase="Starting")

    def __enter__(self) -> Self:
        """Start showing."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        self._bar.stop()

    def update(self, progress: Progress | None, *, stopping: bool) -> None:
        """Move the bar."""
        progress = progress or Progress()
        self._bar.update(
            self._task,
            phase="Stopping" if stopping else progress.phase.value,
            total=progress.total_steps or None,
            completed=progress.step,
            description=facts(progress, stopping=stopping),
        )


class PlainLines:
    """One line a change of phase or message, and one every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._said_at = float("-inf")
        self._said: tuple[str, str, bool] = ("", "", False)

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to stop."""

    def update(self, progress: Progress | None, *, stopping: bool) -> None:
        """Print a line if there is news or it is time."""
        progress = progress or Progress()
        now = time.monotonic()
        news = (progress.phase.value, progress.message if not progress.step else "", stopping)
        if news == self._said and now - self._said_at < PLAIN_SECONDS:
            return
        self._said, self._said_at = news, now
        phase = "Stopping" if stopping else progress.phase.value
        text = f"[{now - self._began:5.0f} s] {phase:<11} {facts(progress, stopping=stopping)}".rstrip()
        self._console.print(Text(text), soft_wrap=True)


def facts(progress: Progress, *, stopping: bool = False) -> str:
    """For instance `step 12/24  loss 0.4321  1m10s left`."""
    parts = []
    if progress.total_steps:
        parts.append(f"step {progress.step}/{progress.total_steps}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if stopping:
        parts.append("saving a checkpoint (Ctrl-C again ends it at once, without)")
    elif progress.eta_seconds is not None:
        parts.append(f"{duration(progress.eta_seconds)} left")
    if not stopping and not progress.message.startswith("step "):  # that is said above
        parts.append(progress.message)
    return "  ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """For instance 45s, 4m10s or 2h03m."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
