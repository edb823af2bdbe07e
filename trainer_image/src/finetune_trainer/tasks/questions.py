"""Questions with their windows: what an evaluation takes for one where training has several rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload

import numpy as np

from finetune_trainer.data.shards import Rows
from finetune_trainer.data.tokens import TokenRow


@dataclass(frozen=True)
class Question:
    """The windows of one question, mostly a single one."""

    windows: tuple[TokenRow, ...]

    def __len__(self) -> int:
        """The number of tokens of all windows."""
        return sum(len(window) for window in self.windows)

    @property
    def trained(self) -> int:
        """The number of ends that give a loss."""
        return sum(window.trained for window in self.windows)


class Questions(Sequence[Question]):
    """The rows of a folder, by question; a row is read when its question is."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._ends = np.append(rows.begins, rows.stored)
        tokens = np.append(0, np.cumsum(rows.lengths))
        self.lengths = np.diff(tokens[self._ends]).tolist()
        """Tokens of each question's windows."""

    def __len__(self) -> int:
        """The number of questions."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> list[Question]: ...
    def __getitem__(self, index: int | slice) -> Question | list[Question]:
        """The question, or questions, with all windows."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        return Question(tuple(self._rows[int(self._ends[number]) : int(self._ends[number + 1])]))


def rows_of(several: Sequence[Question | TokenRow]) -> list[TokenRow]:
    """The rows themselves, or those of questions, one after the other."""
    return list(chain.from_iterable(each.windows if isinstance(each, Question) else [each] for each in several))
