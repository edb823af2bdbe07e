"""An object that no pass can work on is told so, and costs nobody else anything; what can be read of it counts."""

from typing import Any

import pytest

from finetune_operator import report
from finetune_operator.errors import ApiError
from finetune_operator.workqueue import WorkQueue
from tests.controller.world import KEY, World, stamp

FOREIGN: dict[str, dict[str, Any]] = {
    "a stage of a newer version": {"stage": "distil"},
    "a time as RFC 3339 allows it and Python does not": {"completionTime": "2026-11-23t12:00:00z"},
    "an offset that no place on earth has": {"completionTime": "2026-11-23T12:00:00+99:00"},
}


def poisoned(**entry: Any) -> World:
    """A world whose FineTuneJob has a status that the schema lets through."""
    world = World()
    found = {"stage": "train", "number": 1, "jobName": "bot-1", "reason": "StorageUnavailable", **entry}
    world.status["attempts"].append(found)
    return world


@pytest.mark.parametrize("entry", FOREIGN.values(), ids=FOREIGN.keys())
def test_it_ends_stalled_with_a_reason(entry: dict[str, Any]) -> None:
    """A pass that fails may have read garbage; the second one says so on the object, and further ones write nothing."""
    world = poisoned(**entry)
    before = world.status["attempts"]
    for expected in ([], ["status"], ["status"]):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it is
            world.reconcile()
        assert world.writes == expected
    stalled, verdict = world.condition("Stalled"), world.condition()
    assert (stalled["status"], stalled["reason"]) == ("True", "InternalError")
    assert "ValueError" in stalled["message"]
    assert (verdict["status"], world.condition("Reconciling")["status"]) == ("Unknown", "False")
    assert world.status["attempts"] == before  # what cannot be read is not thrown away either


def test_it_heals_once_it_can_be_read() -> None:
    """After a person's or a newer operator's doing the next pass goes on as ever."""
    world = poisoned(stage="distil")
    for _ in range(2):
        with pytest.raises(ValueError, match="distil"):
            world.reconcile()
    assert world.condition("Stalled")["status"] == "True"
    world.status["attempts"].pop()
    world.settle()
    assert world.condition()["reason"] == "Published"
    assert world.condition("Stalled")["status"] == "False"


def test_a_refused_status_is_told_in_a_smaller_one() -> None:
    """The API server finds the whole status invalid: the conditions alone may pass."""
    world = World()
    write = world.patch_status

    async def strict(key: tuple[str, str], patch: dict[str, Any]) -> None:
        if "attempts" in patch["status"]:
            raise ApiError(422, "Invalid", "status.attempts: too long")
        await write(key, patch)

    world.patch_status = strict  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(ApiError):
            world.reconcile()
    assert world.condition("Stalled")["status"] == "True"
    assert "too long" in world.condition()["message"]


def test_a_verdict_stands_whatever_else_cannot_be_read() -> None:
    """A newer operator's status of a finished job: nothing of it is done once more, and the verdict is left alone."""
    world = World()
    world.settle()
    world.delete_jobs()  # as their time to live does
    world.status["attempts"][0]["weight"] = 3
    world.status["conditions"][0]["severity"] = "none"
    world.status["lineage"] = {"parent": "x"}
    world.status["failures"] = "none"
    created = len(world.created)
    world.reconcile()
    world.pass_time(3600)
    world.reconcile()
    assert len(world.created) == created
    assert (world.condition()["status"], world.condition()["reason"]) == ("True", "Published")


def test_an_ended_job_is_never_stalled() -> None:
    """Its time to live cannot be told: it stays, with the verdict it has."""
    world = World()
    world.settle()
    world.edit(ttlSecondsAfterFinished=5)
    world.status["completionTime"] = "2026-11-23t12:00:00z"
    writes = len(world.writes)
    for _ in range(2):
        with pytest.raises(ValueError, match="isoformat"):
            world.reconcile()
    assert (world.condition()["status"], world.condition("Stalled")["status"]) == ("True", "False")
    assert len(world.writes) == writes


def test_what_can_be_read_of_a_status_is_read() -> None:
    """Only the places that this version does not know are left out, wherever they lie."""
    read = report.read_status(
        {
            "attempts": [{"number": 0, "stage": "x", "jobName": "a"}, {"number": 2, "stage": "train", "jobName": "b"}],
            "conditions": [{"type": "Succeeded"}, 5],
            "progress": 7,
            "failures": 2,
            "startTime": stamp(World().now),
        }
    )
    assert [(entry.number, entry.job_name) for entry in read.attempts] == [(2, "b")]
    assert (read.failures, read.conditions, read.progress) == (2, [], None)
    assert report.read_status({"attempts": {"no": "list"}}) == report.read_status({})


async def test_one_that_always_fails_holds_nobody_up() -> None:
    """Of many keys one raises each time: all others are served once, and it comes again only after a pause."""
    queue: WorkQueue[tuple[str, str]] = WorkQueue(backoff_base=60)
    served: list[tuple[str, str]] = []
    keys = [KEY, *(("research", str(n)) for n in range(999))]

    async def handler(key: tuple[str, str]) -> None:
        served.append(key)
        if len(served) == len(keys):
            queue.stop()
        if key == KEY:
            raise ValueError("poison")

    for key in keys:
        queue.add(key)
    await queue.work(handler)
    assert served == keys
