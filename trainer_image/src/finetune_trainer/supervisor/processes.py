"""The processes below this one: find, signal, reap. Linux only, through /proc and prctl(2)."""

import ctypes
import faulthandler
import os
import signal
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants, as PID 1 of a container is anyway."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Get SIGTERM when the parent is gone, so that nothing trains on unsupervised."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def write_stacks_on_request() -> None:
    """At SIGUSR1, and at a crash, write where every thread stands, from the signal handler: nothing needs to move."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def reap(main: int) -> int | None:
    """Collect every child that has ended; return the exit code of `main` if it is one of them.

    A process that a signal ended has the negative number of the signal.
    """
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == main:
            found = os.waitstatus_to_exitcode(status)


def workers(launcher: int) -> list[int]:
    """Return the worker processes: torchrun's children that have a rank, or the launcher itself where it is the worker.

    One that has a rank itself is a worker, and what it starts (data loaders, compilers) has only inherited the rank.
    The launcher is told, too, while it has not started any worker yet.
    """
    if _has_rank(launcher):
        return [launcher]
    ranked = [pid for pid in _children().get(launcher, []) if _has_rank(pid)]
    return ranked or [launcher]


def descendants() -> list[int]:
    """Return all processes below this one."""
    children = _children()
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    """Signal those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_all(spared: set[int]) -> None:
    """SIGKILL everything below this process but `spared`, also what is started meanwhile."""
    seen = set(spared)
    while new := set(descendants()) - seen:
        send(list(new), signal.SIGKILL)
        seen |= new


def _children() -> dict[int, list[int]]:
    """Living children by parent; zombies are left out."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    found.setdefault(int(parent), []).append(int(entry.name))
    return found


def _has_rank(pid: int) -> bool:
    """Tell whether this process was started as a rank, or by one."""
    try:
        return any(v.startswith(b"LOCAL_RANK=") for v in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return False
