"""Operators that start in a moment, to be killed: forks of a process that has imported everything.

As a program it starts one for each line that it reads, writes its process id, waits for its end and writes that status.
"""

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator

from tests.simulation.operators import Operator

_PR_SET_PDEATHSIG = 1


class Nursery:
    """The test's side of it."""

    def __init__(self, program: "subprocess.Popen[str]") -> None:
        self._program = program
        self.pid = 0
        """Of the operator that was started last."""

    def start(self) -> None:
        """Start an operator; the last one must have ended."""
        assert self._program.stdin is not None
        self._program.stdin.write("\n")
        self._program.stdin.flush()
        self.pid = int(self._line())

    def kill(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end; the number of the signal that ended it is negative."""
        return int(self._line())

    def _line(self) -> str:
        assert self._program.stdout is not None
        return self._program.stdout.readline()


@contextlib.contextmanager
def nursery(operator: Operator) -> Iterator[Nursery]:
    """What starts operators with that one's settings."""
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.simulation.forked_operator"]
    pipe = subprocess.PIPE
    with (
        operator.log.open("ab") as out,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=out, env=operator.environment, text=True) as program,
    ):
        try:
            yield Nursery(program)
        finally:
            program.kill()


def _be_one() -> None:
    from finetune_operator.__main__ import main

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    random.seed()
    sys.stdin.close()
    sys.argv = ["finetune_operator"]
    os._exit(main())


def _serve() -> None:
    import finetune_operator.main  # noqa: F401 - that the forks need not

    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _be_one()
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
