"""Run programs, and find and end those that run, by what they are and not by a number that may be reused."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from localcluster import console
from localcluster.errors import CommandFailedError, NotReadyError, tail


def run(argv: Sequence[str], *, stdin: str | None = None, timeout: float = 60) -> str:
    """Run a short program and return its output; raise CommandFailedError with what it said on stderr."""
    done = attempt(argv, stdin=stdin, timeout=timeout)
    if done.returncode:
        raise CommandFailedError(f"`{' '.join(argv)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def attempt(argv: Sequence[str], *, stdin: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a short program that may fail."""
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)


def run_long(
    what: str, argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Run a program that takes its time: output to a log, regular lines, all of it killed on Ctrl-C."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        program = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd, start_new_session=True
        )
    try:
        heartbeat = console.Heartbeat(what, lambda: _latest(log))
        while program.poll() is None:
            heartbeat.wait()
    finally:
        if program.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
    if program.returncode:
        raise CommandFailedError(f"{what}: `{argv[0]}` ended with {program.returncode}.", log=log)


def start_detached(argv: Sequence[str], log: Path, env: Mapping[str, str]) -> int:
    """Start a program that outlives this one; its output goes to a log. Return its process id."""
    with log.open("ab") as out:
        program = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
        )
    program.returncode = 0  # nobody waits for it here, and Popen shall not complain about that
    return program.pid


def _latest(log: Path) -> str:
    lines = [line for line in tail(log) if line.strip()]
    return lines[-1].strip()[:110] if lines else ""


def wait_until(
    what: str,
    ready: Callable[[], bool],
    *,
    timeout: float,
    check: Callable[[], None] = lambda: None,
    log: Path | None = None,
) -> None:
    """Poll until ready; `check` may raise at any time, to end a wait that has become hopeless."""
    end = time.monotonic() + timeout
    heartbeat = console.Heartbeat(f"waiting for {what}")
    while not ready():
        check()
        if time.monotonic() > end:
            raise NotReadyError(f"Waited {timeout:.0f} s in vain for {what}.", log=log)
        heartbeat.wait()


def every() -> list[int]:
    """Return the ids of all processes."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def find(executable: Path | str, *, argument: str = "", namespace: str = "") -> list[int]:
    """Return the living processes that run this very file.

    Args:
        executable: Absolute path; links in it are followed, as the kernel does.
        argument: Text that must appear in the command line.
        namespace: A pid namespace, as `pid_namespace` returns it.
    """
    file = Path(executable).resolve()
    return [
        pid
        for pid in every()
        if _link(f"/proc/{pid}/exe") in (str(file), f"{file} (deleted)")
        and argument in command_line(pid)
        and namespace in ("", pid_namespace(pid))
    ]


def pid_namespace(pid: int) -> str:
    """Return the identity of a process's pid namespace; empty when the process is gone."""
    return _link(f"/proc/{pid}/ns/pid")


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def command_line(pid: int) -> str:
    """Return what a process was started with, separated by blanks; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def end(pids: Sequence[int], number: signal.Signals, *, timeout: float = 10) -> bool:
    """Send a signal and wait; tell whether all are gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    deadline = time.monotonic() + timeout
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
