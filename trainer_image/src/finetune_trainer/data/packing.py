"""Rows -> packs: several rows trained as one sequence, so that little of a long sequence is empty.

Best fit decreasing over the whole set, on lengths only: the longest row first, each into the fullest pack that still
has room for it. Fuller than a first fit in any window, and no row is cut, dropped or given twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from finetune_trainer.data.tokens import IGNORED, TokenRow


@dataclass(frozen=True)
class Pack:
    """Rows that become one sequence."""

    rows: tuple[TokenRow, ...]

    def __len__(self) -> int:
        """The number of tokens."""
        return sum(len(row) for row in self.rows)

    @property
    def trained(self) -> int:
        """The number of tokens that give a loss."""
        return sum(int((row.labels[1:] != IGNORED).sum()) for row in self.rows)


class Packs(Sequence[Pack]):
    """A set of rows as packs; a row is read when its pack is."""

    def __init__(self, rows: Sequence[TokenRow], lengths: Sequence[int], capacity: int, seed: int) -> None:
        self._rows = rows
        self._members = best_fit_decreasing(lengths, capacity, seed)
        self.lengths = [sum(lengths[number] for number in members) for members in self._members]
        """Tokens of each pack."""
        self.filled = sum(lengths) / (len(self._members) * capacity) if lengths else 1.0
        """The share of all packs' capacity that holds tokens."""

    def __len__(self) -> int:
        """The number of packs."""
        return len(self._members)

    @overload
    def __getitem__(self, index: int) -> Pack: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pack]: ...
    def __getitem__(self, index: int | slice) -> Pack | list[Pack]:
        """The pack, or packs, with their rows."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return Pack(tuple(self._rows[number] for number in self._members[index]))


def best_fit_decreasing(lengths: Sequence[int], capacity: int, seed: int) -> list[list[int]]:
    """Assign rows to packs.

    Args:
        lengths: Tokens of each row, 1 to `capacity`.
        capacity: Most tokens of a pack.
        seed: Decides which of equally long rows comes first, so that other seeds bring other neighbours.

    Returns:
        For each pack the indices of its rows, every index exactly once.

    Raises:
        ValueError: A row is longer than a pack.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    order = order[np.argsort(-np.asarray(lengths, dtype=np.int64)[order], kind="stable")]
    packs: list[list[int]] = []
    roomy: list[list[int]] = [[] for _ in range(capacity + 1)]  # by room left: the packs that have it
    rooms = 0  # bit n is set where some pack has room for n more tokens: one shift finds the best fit
    for index in order.tolist():
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"a row of {length} tokens does not fit into a pack of {capacity}")
        room, number = capacity, len(packs)
        if fitting := rooms >> length:
            room = length + (fitting & -fitting).bit_length() - 1
            number = roomy[room].pop()
            rooms ^= (not roomy[room]) << room
        else:
            packs.append([])
        packs[number].append(index)
        roomy[room - length].append(number)
        rooms |= 1 << (room - length)
    return packs
