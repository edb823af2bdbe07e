"""What the survey leaves alone wants no pass: lists alone tell it, and never that something is at rest which is not."""

import asyncio
import copy
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_operator.survey import Survey
from finetune_operator.workqueue import Lane, WorkQueue
from tests.controller.kueue import QueuedWorld
from tests.controller.test_convergence import moves, outcomes, suspensions
from tests.controller.world import KEY, World, stamp


class Counting(World):
    """Counts the reads of passes, and lets each give what it did before."""

    reads = 0

    async def job(self, key: tuple[str, str]) -> dict[str, Any] | None:
        """See Cluster."""
        self.reads += 1
        return await super().job(key)


class Queue(WorkQueue[tuple[str, str]]):
    """Remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[tuple[tuple[str, str], Lane]] = []
        self.later: list[tuple[tuple[str, str], float]] = []

    def add(self, key: tuple[str, str], lane: Lane = Lane.NEWS) -> None:
        """See WorkQueue."""
        self.due.append((key, lane))

    def add_after(self, key: tuple[str, str], seconds: float) -> None:
        """See WorkQueue."""
        self.later.append((key, seconds))


def look(world: World) -> Queue:
    """One survey."""
    queue = Queue()
    asyncio.run(Survey(world, world.reconciler, queue, ()).look())
    return queue


def rest(world: World) -> float | None:
    """What the reconciler says of the world as it is listed."""
    return world.reconciler.rest(
        copy.deepcopy(world.resource or {}), copy.deepcopy([*world.jobs.values()]), copy.deepcopy(world.pods)
    )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(outcomes, st.lists(st.one_of(moves, suspensions.map(lambda move: [move])), max_size=6))
def test_at_rest_means_that_a_pass_writes_nothing(script: tuple[str, ...], story: list[list[Any]]) -> None:
    """In whatever state the cluster is: where the survey asks for no pass now, a pass now would do nothing."""
    world = World({"retries": 1}, script, prepared=False)
    for name, *arguments in (move for part in story for move in part):
        if name == "suspend":
            world.edit(suspend=arguments[0])
        else:
            getattr(world, name)(*arguments)
        said, before = rest(world), len(world.writes)
        if said != 0.0:
            again = world.reconcile()
            assert len(world.writes) == before
            assert again == said


def test_what_is_over_costs_no_request_of_its_own() -> None:
    """A finished job after a restart: counted by its reason, and nothing is due, now or later."""
    world = Counting({"retries": 0}, ("Diverged",))
    world.settle()
    world.restart()
    world.reads = 0
    queue = look(world)
    assert (queue.due, queue.later, world.reads) == ([], [], 0)
    assert world.reconciler.known() == {KEY}


def test_time_alone_is_waited_for() -> None:
    """A time to live ends while nothing else happens."""
    world = World({"ttlSecondsAfterFinished": 100})
    world.settle()
    world.restart()
    world.pass_time(40)
    ((key, seconds),) = look(world).later
    assert key == KEY
    assert 0 < seconds <= 60
    world.pass_time(100)
    assert look(world).due == [(KEY, Lane.PATIENT)]


def test_suspended_is_at_rest_and_running_is_not() -> None:
    """Who runs is asked for its progress by a pass; who waits for somebody to resume it is not."""
    world = World()
    world.reconcile()
    world.make_pods()
    world.start_pods()
    world.reconcile()
    assert look(world).due == [(KEY, Lane.PATIENT)]
    world.edit(suspend=True)
    for _ in range(4):
        world.reconcile()
        world.end_pods()
        world.sync_jobs()
    assert look(world).due == []


def test_who_waits_in_a_queue_is_at_rest_until_it_was_stopped() -> None:
    """Thousands may wait. An Event says why the quota was taken back: of one that has never had any there is none."""
    world = QueuedWorld()
    for _ in range(3):
        world.reconcile()
    (job,) = world.jobs.values()
    for after, due in ((0, []), (300, [(KEY, Lane.PATIENT)])):
        since = stamp(world.now + timedelta(seconds=after))
        job["status"]["conditions"] = [{"type": "Suspended", "status": "True", "lastTransitionTime": since}]
        assert look(world).due == due


def test_who_is_gone_is_looked_at_once_more() -> None:
    """A deletion that no watch told."""
    world = World()
    world.settle()
    world.resource = None
    assert look(world).due == [(KEY, Lane.PATIENT)]
    assert world.reconcile() is None
    assert world.reconciler.known() == set()
    assert look(world).due == []


def test_what_cannot_be_judged_gets_a_pass() -> None:
    """One object that no plan can be made for does not end the survey of all others."""
    world = World()
    assert world.resource is not None
    world.resource["metadata"]["generation"] = "seven"
    assert look(world).due == [(KEY, Lane.PATIENT)]
