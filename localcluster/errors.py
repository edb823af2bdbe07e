"""Everything that may go wrong here, as one tree.

LocalClusterError            exit 1
├── MissingRequirementsError      exit 2: this machine lacks something; nothing was started
├── CommandFailedError            exit 1: a program we ran ended badly; carries its last lines
│   └── DaemonDiedError           exit 1: a program that should keep running ended
└── NotReadyError                 exit 1: a program runs, but did not become ready in time

Each says what failed, shows the last lines of the log, names the log, and gives the remedy.
"""

from pathlib import Path

TAIL_LINES = 15


class LocalClusterError(Exception):
    """A failure that a person can act on: `what` failed, and the `remedy`."""

    exit_code = 1

    def __init__(self, what: str, *, log: Path | None = None, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.log = log
        self.remedy = remedy
        self.tail = tail(log) if log else []  # read now: a clean-up may remove the file before anyone looks

    def __str__(self) -> str:
        """The whole story, as the command line prints it."""
        parts = [self.what]
        if self.log:
            parts += [f"Last lines of {self.log}:", *(f"    {line}" for line in self.tail or ["(empty)"])]
        if self.remedy:
            parts.append(self.remedy)
        return "\n".join(parts)


class MissingRequirementsError(LocalClusterError):
    """This machine cannot run the cluster as it is; nothing was started."""

    exit_code = 2


class CommandFailedError(LocalClusterError):
    """A program that we ran ended with a code other than zero."""


class DaemonDiedError(CommandFailedError):
    """A program that should keep running ended."""


class NotReadyError(LocalClusterError):
    """A program runs, but did not become ready in time."""


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log, or nothing when it cannot be read."""
    try:
        text = log.read_bytes()[-16_384:].decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]
