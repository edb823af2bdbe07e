"""Packs are full, whole and repeatable, for any set of lengths."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.packing import Pack, Packs, best_fit_decreasing
from finetune_trainer.data.tokens import IGNORED, TokenRow

CAPACITY = st.integers(1, 300)


def first_fit_decreasing(lengths: list[int], capacity: int) -> int:
    """The number of packs of the textbook's other heuristic: each row into the first pack with room."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        at = next((i for i, room in enumerate(rooms) if room >= length), None)
        if at is None:
            rooms.append(capacity - length)
        else:
            rooms[at] -= length
    return len(rooms)


def alpaca_like(count: int, longest: int, seed: int = 5) -> list[int]:
    """Lengths as chats have them: many short, few long."""
    drawn = np.random.default_rng(seed).lognormal(5, 0.8, count)
    return [int(n) for n in drawn.clip(8, longest)]


@given(data=st.data(), capacity=CAPACITY, seed=st.integers(0, 2**31 - 1))
def test_every_row_once_and_no_pack_over_the_limit(data: st.DataObject, capacity: int, seed: int) -> None:
    """Nothing is lost, doubled or too long; the same seed gives the same packs."""
    lengths = data.draw(st.lists(st.integers(1, capacity), max_size=80))
    packs = best_fit_decreasing(lengths, capacity, seed)
    assert sorted(chain.from_iterable(packs)) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in pack) <= capacity for pack in packs)
    assert packs == best_fit_decreasing(lengths, capacity, seed)


@given(data=st.data(), capacity=st.integers(6, 300), seed=st.integers(0, 99))
@settings(max_examples=200)
def test_never_more_packs_than_first_fit(data: st.DataObject, capacity: int, seed: int) -> None:
    """For rows of at least a sixth of a pack this is a theorem (Johnson 1974)."""
    lengths = data.draw(st.lists(st.integers(-(-capacity // 6), capacity), max_size=80))
    assert len(best_fit_decreasing(lengths, capacity, seed)) <= first_fit_decreasing(lengths, capacity)


@pytest.mark.parametrize("capacity", [512, 1024, 2048])
def test_chats_fill_their_packs(capacity: int) -> None:
    """Not below first fit on lengths as chats have them, and within two percent of what no packing can beat."""
    lengths = alpaca_like(4000, capacity)
    packs = best_fit_decreasing(lengths, capacity, 0)
    assert len(packs) <= first_fit_decreasing(lengths, capacity)
    assert sum(lengths) / (len(packs) * capacity) > 0.98


def test_the_seed_decides_the_neighbours_not_the_number_of_packs() -> None:
    """Rows of one length trade places; how full the packs are does not change."""
    lengths = alpaca_like(200, 512)
    one, other = (best_fit_decreasing(lengths, 512, seed) for seed in (1, 2))
    assert one != other
    assert len(one) == len(other)


def test_a_row_that_fits_nowhere_is_refused() -> None:
    """Instead of a pack over the limit."""
    with pytest.raises(ValueError, match="a row of 9 tokens does not fit into a pack of 8"):
        best_fit_decreasing([3, 9], 8, 0)


def test_a_pack_holds_the_rows_themselves() -> None:
    """Tokens and trained tokens are those of the rows, counted by hand; the share filled is tokens over slots."""
    rows = []
    for length in (5, 3, 4, 6):
        ids = np.arange(length, dtype=np.int32)
        rows.append(TokenRow(ids, np.where(ids >= 2, ids, IGNORED).astype(np.int32)))
    packs = Packs(rows, [len(row) for row in rows], 9, 0)
    assert len(packs) == 2
    assert sorted(len(pack) for pack in packs) == [9, 9]
    assert sum(pack.trained for pack in packs[:]) == 3 + 1 + 2 + 4
    assert packs.filled == 18 / 18
    assert isinstance(packs[-1], Pack)
    assert {id(row) for pack in packs for row in pack.rows} == {id(row) for row in rows}
