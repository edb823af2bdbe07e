"""Collect what is wrong with rows, so that one failed run shows several mistakes and not just the first."""

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError

SHOWN = 5
"""Findings that are spelt out; the rest is counted."""


class RowError(Exception):
    """What is wrong with one row, as the end of a sentence that starts with its file and line."""


class Findings:
    """Bad rows of one file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._shown: list[str] = []
        self._count = 0

    def add(self, line: int, error: RowError) -> None:
        """Remember one bad row."""
        self._count += 1
        if self._count <= SHOWN:
            self._shown.append(f"{self._file}:{line}: {error}")

    def raise_if_any(self, good: int) -> None:
        """End the run if a row was bad; `good` is the number of rows that were not.

        Raises:
            RunError: InvalidDataset.
        """
        if not self._count:
            return
        more = f" (and {self._count - SHOWN} more)" if self._count > SHOWN else ""
        raise RunError(
            Reason.INVALID_DATASET,
            f"{self._count} of {self._count + good} rows cannot be used: {'; '.join(self._shown)}{more}",
            "Correct or remove these lines and create the job again; nothing was trained or uploaded.",
        )
