"""What the person in front of the demo sees: numbered steps, the commands behind them, and never a long silence."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

HEARTBEAT_SECONDS = 8.0
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


class Failed(Exception):  # noqa: N818 - a verdict, not a bug
    """The demo cannot go on; the message says why and what to do."""


class Steps:
    """The steps of the demo and the time each took."""

    def __init__(self) -> None:
        self._times: list[tuple[str, float]] = []

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step; remember its time when it went well."""
        console.print()
        console.print(Rule(Text(f"{len(self._times) + 1}. {title}", style="bold"), align="left"))
        began = time.monotonic()
        yield
        self._times.append((title, time.monotonic() - began))

    def table(self) -> Table:
        """All steps with their times, and the sum."""
        table = Table("step", "seconds", title="where the time went", title_justify="left")
        table.columns[1].justify = "right"
        for title, seconds in self._times:
            table.add_row(title, f"{seconds:.0f}")
        table.add_section()
        table.add_row("all", f"{sum(seconds for _, seconds in self._times):.0f}")
        return table


def say(text: str, style: str = "") -> None:
    """Print one sentence."""
    console.print(Text(text, style=style))


def show_command(*command: str) -> None:
    """Print a command that the person could have typed."""
    say(f"$ {' '.join(command)}", "bold cyan")


def run(what: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a program, its lines shown as they come, with a sign of life when it says nothing.

    Args:
        what: What is going on.
        command: The program and its arguments.
        environment: Added to this process's own.

    Raises:
        Failed: It ended with another code than 0.
    """
    program = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,  # Ctrl-C is ours to handle
    )
    lines: SimpleQueue[str | None] = SimpleQueue()
    threading.Thread(target=_read, args=(program, lines), daemon=True).start()
    began = time.monotonic()
    try:
        while (line := _next(lines)) is not None:
            say(f"  {line or f'{what} ({time.monotonic() - began:.0f} s)'}", "dim")
        if program.wait() != 0:
            raise Failed(f"{what}: `{command[0]}` ended with {program.returncode}; see above.")
    finally:
        if program.poll() is None:
            program.terminate()
            program.wait()


def _next(lines: "SimpleQueue[str | None]") -> str | None:
    """The next line, empty when there was none for a while, None after the last."""
    with suppress(Empty):
        return lines.get(timeout=HEARTBEAT_SECONDS)
    return ""


def _read(program: "subprocess.Popen[str]", lines: "SimpleQueue[str | None]") -> None:
    for line in program.stdout or ():
        if line.strip():
            lines.put(line.rstrip())
    lines.put(None)
