"""Runs the worker: starts it, forwards stop signals, reaps, and ends everything below this process."""

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from finetune_trainer.supervisor import processes
from finetune_trainer.supervisor.mailbox import Mailbox

_log = logging.getLogger(__name__)
_TICK_SECONDS = 1.0
_TAIL_BYTES = 65536
_KILLED_SECONDS = 10  # a killed process may still wait for its disk
_STACKS_SECONDS = 2.0
ALONE_SECONDS = 10.0
"""For workers that were left alone to notice it themselves, and say so."""


@dataclass(frozen=True)
class Ending:
    """How the worker ended, as seen from outside."""

    code: int
    """Its exit code; negative for a signal."""
    stop: str = ""
    """What asked it to stop: empty, SIGTERM or SIGINT."""
    killed: str = ""
    """Why this supervisor killed it; empty when it did not."""
    hang: str = ""
    """Why it was taken for hung; empty when it was not."""
    alone: str = ""
    """Why it could do nothing more; empty when it could."""
    deadline: float | None = None
    """By `time.monotonic`: when this process has to be gone, after a stop signal."""
    stderr: str = ""
    """The end of what it wrote there."""

    @property
    def signal(self) -> str:
        """Name of the signal that ended it, or empty; a launcher says it as 128 + number."""
        known = {item.value: item.name for item in signal.Signals}
        if self.code < 0:
            return known.get(-self.code, f"signal {-self.code}")
        return known.get(self.code - 128, "")


def supervise(
    command: list[str],
    environment: Mapping[str, str],
    mailbox: Mailbox,
    grace_seconds: float,
    on_tick: Callable[[], str] = lambda: "",
    on_stop: Callable[[], None] = lambda: None,
    left_alone: Callable[[], str] = lambda: "",
) -> Ending:
    """Run the worker to its end and return how it ended; nothing below this process is left then.

    A stop signal goes to the worker processes as SIGTERM, never to torchrun, which would add a timeout of its own.
    After `grace_seconds`, or at a second SIGINT, everything is killed; a worker that hangs writes its stacks first.

    Args:
        command: The worker, or torchrun with workers below it.
        environment: Of the worker.
        mailbox: Where this process's signals arrive.
        grace_seconds: From the first stop signal to SIGKILL.
        on_tick: Called about once a second; returns why the worker is taken for hung, or nothing.
        on_stop: Called when the first stop signal has come, before the workers get it.
        left_alone: Called as often; returns why the worker waits in vain for other nodes, or nothing.
    """
    processes.adopt_orphans()
    before = set(processes.descendants())
    child = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        tail = _Tail(child.stderr)  # type: ignore[arg-type]  # it is a pipe
        stop = _Stop(child.pid, grace_seconds, before, on_stop)
        code = None
        while code is None:
            stop.hear(mailbox.get(min(_TICK_SECONDS, stop.seconds_left())))
            code = processes.reap(child.pid)
            if code is None and (why := on_tick()):
                stop.end_hung(why)
            if code is None and (why := left_alone()):
                stop.end_alone(why)
        child.returncode = code  # it is reaped: Popen shall not wait for it
        return Ending(code, stop.asked, stop.killed, stop.hang, stop.alone, stop.deadline, tail.text())
    finally:
        _end_everything(before, child.pid)


def _end_everything(spared: set[int], main: int) -> None:
    """Kill and reap what is left below this process."""
    processes.kill_all(spared)
    end = time.monotonic() + _KILLED_SECONDS
    while set(processes.descendants()) - spared and time.monotonic() < end:
        time.sleep(0.01)
    processes.reap(main)


class _Stop:
    """The way to the end: ask the workers once, kill everything later."""

    def __init__(
        self, launcher: int, grace_seconds: float, spared: set[int], on_stop: Callable[[], None] = lambda: None
    ) -> None:
        self._launcher = launcher
        self._spared = spared
        self._grace = grace_seconds
        self._on_stop = on_stop
        self._patience = 0.0
        self.deadline: float | None = None
        self.asked = ""
        self.killed = ""
        self.hang = ""
        self.alone = ""

    def seconds_left(self) -> float:
        """Until the kill; endless where nobody asked to stop, or it is done."""
        return float("inf") if self.deadline is None or self.killed else self.deadline - time.monotonic()

    def hear(self, number: signal.Signals | None) -> None:
        """Act on a signal, or on the passing of time."""
        if number in (signal.SIGTERM, signal.SIGINT):
            if self.asked == "":
                self._ask(number)
            elif number == signal.SIGINT:
                self._kill("it was interrupted twice")
        if self.seconds_left() <= 0:
            self._kill(f"it had not stopped {self._grace:g} s after {self.asked}")

    def end_hung(self, why: str) -> None:
        """Let the workers write where they stand, then kill them; who was asked to stop has its own deadline."""
        if self.asked or self.killed:
            return
        self.hang = why
        _log.info("The worker hangs: %s. These are its stacks.", why)
        self._show_stacks()
        self._kill("it hung")

    def end_alone(self, why: str) -> None:
        """Kill workers that wait for a node which is gone, unless they notice it themselves."""
        if self.asked or self.killed:
            return
        if not self.alone:
            self.alone, self._patience = why, time.monotonic() + ALONE_SECONDS
            _log.info("%s: the workers have %g s to end by themselves.", why.capitalize(), ALONE_SECONDS)
        elif time.monotonic() > self._patience:
            self._show_stacks()
            self._kill("it waited for a node that is gone")

    def _show_stacks(self) -> None:
        processes.send(processes.workers(self._launcher), signal.SIGUSR1)
        time.sleep(_STACKS_SECONDS)

    def _ask(self, number: signal.Signals) -> None:
        self.asked = number.name
        self._on_stop()
        self.deadline = time.monotonic() + self._grace
        how = " Press Ctrl-C again to kill it at once." if number == signal.SIGINT else ""
        _log.info("Got %s: the worker has %g s to save a checkpoint and stop.%s", number.name, self._grace, how)
        processes.send(processes.workers(self._launcher), signal.SIGTERM)

    def _kill(self, why: str) -> None:
        if not self.killed:
            self.killed = why
            _log.info("Killing the worker, for %s.", why)
            processes.kill_all(self._spared)


class _Tail:
    """Passes stderr through and remembers its end."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._last = b""
        self._thread = threading.Thread(target=self._pump, name="stderr", daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        with self._pipe as pipe:
            while chunk := pipe.read1(65536):  # type: ignore[attr-defined]  # a BufferedReader
                sys.stderr.buffer.write(chunk)
                sys.stderr.buffer.flush()
                self._last = (self._last + chunk)[-_TAIL_BYTES:]

    def text(self) -> str:
        """The end of it, once the worker is gone; something it left behind may still hold the pipe."""
        self._thread.join(timeout=1)
        return self._last.decode(errors="replace")
