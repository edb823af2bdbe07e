"""A pass that has nothing to tell but progress reads nothing; whatever else may have happened is read."""

import asyncio
import copy
from typing import Any

import pytest

from finetune_operator.errors import ApiError
from finetune_operator.plan import Action, Plan, SetSuspend
from finetune_operator.reconcile import _only_progress
from tests.controller.world import KEY, World, run


class Counted(World):
    """Counts what the operator asks for."""

    reads = 0

    async def job(self, key: tuple[str, str]) -> dict[str, Any] | None:
        """See World."""
        self.reads += 1
        return await super().job(key)

    async def children(self, namespace: str, uid: str) -> tuple[list[Any], list[Any]]:
        """See World."""
        self.reads += 1
        return await super().children(namespace, uid)

    def hear(self, **progress: Any) -> None:
        """The trainer says something, and the poller hears it."""
        self.say(**{"phase": "Training", "total_steps": 100, "resumed_from": 0, "loss": 1.0, **progress})
        self.reconciler.progressed(KEY)


@pytest.fixture
def world() -> Counted:
    """A trainer that has said something, which is in the status."""
    found = Counted()
    for _ in range(3):
        found.reconcile()
        found.make_pods()
        found.start_pods()
    for step in (1, 2):
        found.hear(step=step)
        found.reconciler.news(KEY)
        found.reconcile()
    found.reads = 0
    found.writes.clear()
    return found


def test_progress_alone_is_one_write(world: Counted) -> None:
    """Ten times in a row, and the status is what a new process would write that reads everything."""
    for step in range(3, 13):
        world.pass_time(3)
        world.hear(step=step)
        world.reconcile()
    assert (world.reads, world.writes) == (0, ["status"] * 10)
    assert world.status["progress"]["step"] == 12
    said = copy.deepcopy(world.status)
    world.restart()
    world.hear(step=12)
    world.reconcile()
    assert (world.reads, world.status) == (2, said)


def test_other_news_is_read(world: Counted) -> None:
    """What a watch told between two passes, or in the middle of one, counts for the next."""
    world.hear(step=3)
    world.reconciler.news(KEY)
    world.reconcile()
    assert world.reads == 2

    write = world.patch_status

    async def news_meanwhile(*arguments: Any) -> dict[str, Any]:
        world.reconciler.news(KEY)
        return await write(*arguments)

    world.patch_status = news_meanwhile  # type: ignore[method-assign]
    world.hear(step=4)
    world.reconcile()
    assert world.reads == 2
    world.hear(step=5)
    world.reconcile()
    assert world.reads == 4


def test_a_pass_that_no_trainer_asked_for_reads(world: Counted) -> None:
    """A timer's, or a survey's."""
    world.reconcile()
    assert world.reads == 2


def test_what_is_more_than_progress_is_read(world: Counted) -> None:
    """Another phase, and a trainer that ended although nobody told: no verdict is made of what was read before."""
    world.hear(step=3, phase="Publishing")
    world.reconcile()
    assert world.reads == 2
    assert world.condition()["reason"] == "Publishing"


def test_a_change_that_no_watch_told_yet_is_refused(world: Counted) -> None:
    """Somebody's edit: the API server says 409, nothing of it is overwritten, and the next pass reads."""
    world.edit(suspend=True)
    world.hear(step=3)
    assert world.reconcile() == pytest.approx(0.2)
    assert (world.reads, world.writes) == (0, [])
    world.hear(step=3)
    world.reconcile()
    assert (world.reads, world.condition()["reason"]) == (2, "Suspended")


def test_after_a_pass_that_failed_everything_is_read(world: Counted) -> None:
    """Its news is gone, but what was read before it counts no more."""
    read = world.job

    async def unreachable(_: tuple[str, str]) -> dict[str, Any] | None:
        raise ApiError(0, "ClientConnectorError", "the API server cannot be reached")

    world.job = unreachable  # type: ignore[method-assign]
    world.hear(step=3)
    world.reconciler.news(KEY)
    with pytest.raises(ApiError):
        world.reconcile()
    world.job = read  # type: ignore[method-assign]
    world.hear(step=3)
    world.reconcile()
    assert world.reads == 2


def test_progress_that_waits_for_its_turn_waits_without_reading(world: Counted) -> None:
    """Two answers within status_seconds: the second is written when its time comes, by a pass that reads nothing."""
    world.hear(step=3)
    world.reconcile()
    world.ears.hear(world.status["jobName"], {"phase": "Training", "step": 4, "total_steps": 100, "resumed_from": 0})
    world.reconciler.progressed(KEY)
    left = world.reconcile()
    assert left is not None
    assert 0 < left <= 5
    assert world.writes == ["status"]
    world.reconciler._written.clear()  # that time is over
    world.reconcile()
    assert (world.reads, world.writes, world.status["progress"]["step"]) == (0, ["status"] * 2, 4)


def test_the_echo_of_a_write_is_known(world: Counted) -> None:
    """What a watch brings of progress that was just written is no news; anybody's change is, and a first sight."""
    assert world.resource is not None
    world.hear(step=3)
    world.reconcile()
    assert run(world.reconciler.wrote(copy.deepcopy(world.resource)))
    world.edit(suspend=True)
    assert not run(world.reconciler.wrote(copy.deepcopy(world.resource)))
    run(world.reconciler(KEY))
    assert not run(world.reconciler.wrote(copy.deepcopy(world.resource)))
    world.restart()
    assert not run(world.reconciler.wrote(copy.deepcopy(world.resource)))


@pytest.mark.parametrize("edited", [False, True])
async def test_an_echo_before_the_answer_is_known_too(world: Counted, edited: bool) -> None:
    """A watch is faster than the answer to the write that it tells of: it waits, and tells nobody. An edit it tells."""
    write, heard = world.patch_status, []

    async def slow(*arguments: Any) -> dict[str, Any]:
        written = await write(*arguments)
        if edited:
            world.edit(suspend=True)
        heard.append(asyncio.create_task(world.reconciler.wrote(copy.deepcopy(world.resource or {}))))
        for _ in range(5):
            await asyncio.sleep(0)
        return written

    world.patch_status = slow  # type: ignore[method-assign]
    world.hear(step=3)
    await world.reconciler(KEY)
    assert await heard[0] is not edited


@pytest.mark.parametrize(
    ("actions", "patch", "only"),
    [
        ((), {"progress": {"step": 4}}, True),
        ((), {}, True),
        ((), {"progress": {"step": 4}, "conditions": []}, False),
        ((SetSuspend("bot-1", suspend=True),), {"progress": {"step": 4}}, False),
    ],
)
def test_what_counts_as_progress_alone(actions: tuple[Action, ...], patch: dict[str, Any], only: bool) -> None:
    """Nothing else to say, and nothing to do: an action is never decided by what was read before."""
    assert _only_progress(Plan(actions), patch) is only
