"""A job that a watch says is new gets its first Job before anything is read; one that is not new never does."""

import copy

import pytest

from tests.controller.test_convergence import hold_laws
from tests.controller.world import World


def test_the_job_comes_first_and_its_status_next() -> None:
    """One write in the first pass; the second one says what the first has done."""
    world = World(prepared=False)
    world.reconciler.met(copy.deepcopy(world.resource or {}))
    assert world.reconcile() is not None
    assert (len(world.writes), world.stages, world.status) == (1, ["prepare"], {})
    world.reconcile()
    assert [attempt["number"] for attempt in world.status["attempts"]] == [1]
    assert world.condition()["reason"] == "Pending"


@pytest.mark.parametrize("another_leader", [False, True])
def test_late_news_begin_nothing_anew(another_leader: bool) -> None:
    """A watch was silent for a minute. By then the first Job had been there, and somebody has deleted it."""
    world = World(prepared=False)
    told = copy.deepcopy(world.resource or {})
    world.reconcile()
    world.reconcile()
    world.delete_jobs()
    if another_leader:
        world.restart()
        world.pass_time(60)
    world.reconciler.met(told)
    world.settle()
    hold_laws(world)
    assert [attempt["reason"] for attempt in world.status["attempts"]] == ["JobDeleted", "Prepared", "Published"]


def test_suspended_from_the_start_is_not_begun() -> None:
    """A case that is not so simple is read like any other."""
    world = World({"suspend": True}, prepared=False)
    world.reconciler.met(copy.deepcopy(world.resource or {}))
    world.reconcile()
    assert world.stages == []
    assert world.condition()["reason"] == "Suspended"
