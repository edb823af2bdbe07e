"""Leader election: whatever the order of looks, pauses and thefts, two replicas never may write at the same time."""

import asyncio
import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.errors import ApiError
from finetune_operator.lease import Elector, Timing

TIMING = Timing(lease=15, renew=10, retry=2)


class Store:
    """The API server's part: one Lease, guarded by its resourceVersion. `now` is everybody's clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.kept: dict[str, Any] | None = None
        self.reachable = True

    async def lease(self, verb: str, namespace: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """See Api."""
        if not self.reachable:
            raise ApiError(0, "", "the API server cannot be reached")
        if verb == "GET":
            if self.kept is None:
                raise ApiError(404, "NotFound", name)
            return copy.deepcopy(self.kept)
        assert body is not None
        seen = body["metadata"].get("resourceVersion")
        there = self.kept["metadata"]["resourceVersion"] if self.kept else None
        if (verb == "POST" and self.kept) or (verb == "PUT" and seen != there):
            raise ApiError(409, "Conflict", name)
        version = str(int(there or 0) + 1)
        self.kept = {**body, "metadata": {"name": name, "namespace": namespace, "resourceVersion": version}}
        return copy.deepcopy(self.kept)

    @property
    def spec(self) -> dict[str, Any]:
        """Of the Lease."""
        assert self.kept is not None
        return dict(self.kept["spec"])


def electors(count: int) -> tuple[Store, list[Elector]]:
    """Replicas before one store."""
    store = Store()
    return store, [Elector(store, "system", "op", f"r{n}", TIMING, clock=lambda: store.now) for n in range(count)]


MOVES = st.one_of(
    st.tuples(st.just("look"), st.integers(0, 2)),
    st.tuples(st.just("pass"), st.sampled_from([0.5, 2, 4, 9, 11, 16, 40])),
    st.tuples(st.just("cut"), st.booleans()),
    st.tuples(st.just("release"), st.integers(0, 2)),
)


@given(st.lists(MOVES, max_size=60))
def test_never_two_that_may_write(moves: list[tuple[str, Any]]) -> None:
    """Any order of looks at the Lease, stops of any length, cut connections and orderly ends, by three replicas."""

    async def play() -> None:
        store, replicas = electors(3)
        for what, value in moves:
            if what == "pass":
                store.now += value
            elif what == "cut":
                store.reachable = not value
            elif what == "look":
                await replicas[value]._try(60)
            else:
                await replicas[value].release()
            assert sum(replica.may_write() for replica in replicas) <= 1

    asyncio.run(play())


async def test_a_free_lease_is_taken_and_a_held_one_is_not() -> None:
    """The second comes in only when the first has not renewed for the Lease's whole duration, by its own clock."""
    store, (first, second) = electors(2)
    assert await first._try(1)
    assert not await second._try(1)
    for _ in range(10):
        store.now += 9
        assert await first._try(1)
        assert not await second._try(1)
    store.now += 14
    assert not await second._try(1)
    store.now += 2
    assert await second._try(1)
    assert (store.spec["holderIdentity"], store.spec["leaseTransitions"]) == ("r1", 1)


async def test_what_is_written_in_a_record_is_no_clock() -> None:
    """A holder whose clock is a year ahead, or behind, is given the same time as any other."""
    store, (first, second) = electors(2)
    for year in ("1999", "2999"):
        await first._try(1)
        assert store.kept is not None
        store.kept["spec"]["renewTime"] = f"{year}-01-01T00:00:00.000000Z"
        assert not await second._try(1)
        store.now += 14
        assert not await second._try(1)


async def test_a_leader_that_cannot_renew_stops_writing_before_anybody_takes_over() -> None:
    """Ten seconds against fifteen: between them nobody writes."""
    store, (first, second) = electors(2)
    await first._try(1)
    await second._try(1)
    store.reachable = False
    store.now += 9.9
    assert first.may_write()
    store.now += 0.2
    assert not first.may_write()
    store.reachable = True
    assert not await second._try(1)
    store.now += 5
    assert await second._try(1)


async def test_an_orderly_end_hands_the_lease_over_at_once() -> None:
    """Released, it is free; a replica that did not lead releases nothing of another's."""
    store, (first, second) = electors(2)
    await first._try(1)
    first.leading.set()
    await second.release()
    assert store.spec["holderIdentity"] == "r0"
    await first.release()
    assert store.spec["holderIdentity"] == ""
    assert not first.may_write()
    assert await second._try(1)


async def test_times_are_micro_times_in_utc() -> None:
    """Six digits and a Z, as the API server wants them."""
    store, (first,) = electors(1)
    await first._try(1)
    for field in ("acquireTime", "renewTime"):
        text = store.spec[field]
        assert text.endswith("Z")
        assert len(text.rpartition(".")[2]) == len("123456Z")
