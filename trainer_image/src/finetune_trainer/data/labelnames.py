"""The labels of classification: their names, and their numbers.

Rows name their labels; the model knows numbers. Where the names are not known before, each gets a number as it comes,
and at the end the numbers are put into the order of the names: it does not depend on the order of the rows.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import MAX_LABELS
from finetune_trainer.data.findings import Kind, RowError
from finetune_trainer.errors import RunError

_WHOLE = re.compile(r"0|-?[1-9][0-9]*")


class LabelNames:
    """The labels of one source."""

    def __init__(self, known: Sequence[str] | None) -> None:
        self._known = known is not None
        self._numbers = {name: number for number, name in enumerate(known or ())}

    def number(self, name: str, where: str) -> int:
        """The number of a label, as its row is written.

        Raises:
            RowError: It is not among those that are known, or there are too many.
        """
        found = self._numbers.get(name)
        if found is not None:
            return found
        if self._known:
            raise RowError(f"{where} is {name!r:.60}, which is not among the labels {self._listed()}", Kind.LABEL)
        if len(self._numbers) == MAX_LABELS:
            raise RowError(f"{where} is {name!r:.60}, the {MAX_LABELS + 1}th label: is it a text?", Kind.LABEL)
        return self._numbers.setdefault(name, len(self._numbers))

    def names(self, source: str) -> list[str]:
        """The names by number, in order.

        Raises:
            RunError: InvalidDataset: there is nothing to tell apart.
        """
        if len(self._numbers) < 2:
            raise RunError(
                Reason.INVALID_DATASET,
                f"the rows of {source} have {len(self._numbers)} label{'s' * (not self._numbers)}, {self._listed()}; "
                "there is nothing to tell apart",
                "Add rows with other labels, or name all labels in task.labels.",
            )
        return list(self._numbers) if self._known else sorted(self._numbers, key=_rank(list(self._numbers)))

    @property
    def order(self) -> list[int]:
        """The final number of each label, by the number that its rows were written with."""
        if self._known:
            return list(range(len(self._numbers)))
        place = {name: number for number, name in enumerate(sorted(self._numbers, key=_rank(list(self._numbers))))}
        return [place[name] for name in self._numbers]

    def _listed(self) -> str:
        names = sorted(self._numbers)
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _rank(names: list[str]) -> Callable[[str], Any]:
    """By value where all are whole numbers, else as text."""
    return int if all(_WHOLE.fullmatch(name) for name in names) else str
