"""Checkpoints between the worker, which writes them, and PID 1, which brings them to storage: whole ones only.

The worker puts a checkpoint in by one rename and trains on; PID 1 takes the newest out by another. Either may be killed
at any point: what has no name of its own yet starts with a dot, and is nobody's. The folder need not survive the
machine, only the worker (storage is what survives machines), so nothing waits for the disk here.
"""

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"step-(\d{8,})(-suspect)?")
_NEEDLESS = ("training_args.bin", "README.md")  # a pickle that nobody reads; peft's empty model card


@dataclass(frozen=True)
class Parcel:
    """One checkpoint that PID 1 has taken."""

    step: int
    folder: Path
    good: bool
    """False where the loss was going up already when it was saved."""


class Outbox:
    """A folder with at most one checkpoint that waits, and those that PID 1 has taken."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def clear(self) -> None:
        """Forget what an earlier run left."""
        shutil.rmtree(self._root, ignore_errors=True)

    def put(self, checkpoint: Path, step: int, *, good: bool = True) -> None:
        """Offer a checkpoint, by hard links to its files; older ones that still wait are dropped."""
        staging = self._root / f".staging-{step}"
        shutil.rmtree(staging, ignore_errors=True)
        ignore = shutil.ignore_patterns(*_NEEDLESS)
        shutil.copytree(checkpoint, staging, copy_function=_link, ignore=ignore)
        name = f"step-{step:08d}" + ("" if good else "-suspect")
        self._withdraw(name)  # the same step, saved again
        staging.rename(self._root / name)
        for older in self._waiting()[1:]:
            self._withdraw(older)

    def take(self) -> Parcel | None:
        """Take the newest checkpoint, or None where none waits; older ones are dropped: the worker may be dead."""
        waiting = self._waiting()
        for name in waiting:
            taken = self._root / f".taken-{name}"
            shutil.rmtree(taken, ignore_errors=True)
            with suppress(FileNotFoundError):  # the worker has just dropped it for a newer one
                (self._root / name).rename(taken)
                for older in waiting[waiting.index(name) + 1 :]:
                    self._withdraw(older)
                step, suspect = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]  # _waiting matched it
                return Parcel(int(step), taken, good=suspect is None)
        return None

    def waits(self) -> bool:
        """Tell whether there is something to take."""
        return bool(self._waiting())

    @staticmethod
    def done(parcel: Parcel) -> None:
        """Delete what is in storage now, or was overtaken."""
        shutil.rmtree(parcel.folder, ignore_errors=True)

    def _waiting(self) -> list[str]:
        """Names, newest first."""
        with suppress(FileNotFoundError):
            return sorted((e.name for e in self._root.iterdir() if _NAME.fullmatch(e.name)), reverse=True)
        return []

    def _withdraw(self, name: str) -> None:
        """Delete one that waits; renamed first, so that it is never seen in parts."""
        dropped = self._root / f".dropped-{name}"
        with suppress(FileNotFoundError):  # PID 1 has just taken it
            (self._root / name).rename(dropped)
            shutil.rmtree(dropped)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
