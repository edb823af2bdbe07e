"""Events tell the story of a job, and stay few however long it is."""

import pytest

from tests.controller.kueue import QueuedWorld
from tests.controller.world import World


def story(world: World) -> list[tuple[str, str, int, str]]:
    """As `kubectl describe` prints it: type, reason, count and message, by the last time of each."""
    ordered = sorted(world.events.values(), key=lambda event: event["lastTimestamp"])
    return [(event["type"], event["reason"], event["count"], event["message"]) for event in ordered]


def name_of(world: World, number: int) -> str:
    """The Job that was created as the n-th."""
    return world.created[number - 1][1]


def live(world: World, seconds: float) -> None:
    """The world goes on for so long, a turn every few seconds, and every turn has a pass."""
    end = world.now.timestamp() + seconds
    while world.now.timestamp() < end:
        for step in (world.make_pods, world.start_pods, world.end_pods, world.sync_jobs):
            again = world.reconcile()
            step()
            world.pass_time(1)
        world.pass_time(min(again or 2, 5))


def test_a_good_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four sentences, in the order in which things happened, and no two at the same second."""
    world = World(prepared=False)
    monkeypatch.setattr(world.reconciler._poller, "last", lambda *_: None)
    live(world, 60)
    job, last = name_of(world, 1), name_of(world, 2)
    assert story(world) == [
        ("Normal", "PrepareStarted", 1, f"prepare attempt 1 is Job {job}"),
        ("Normal", "Prepared", 1, "it was Prepared"),
        ("Normal", "TrainStarted", 1, f"train attempt 1 is Job {last}"),
        ("Normal", "Published", 1, "it was Published"),
    ]
    times = [event["lastTimestamp"] for event in world.events.values()]
    assert len(set(times)) == 4


@pytest.mark.parametrize("reason", ["StorageUnavailable", "InternalError", "VerificationFailed", "PeerLost"])
def test_ten_minutes_of_failures_are_five_events(reason: str) -> None:
    """Failing and retrying all the time: counts grow, the number of objects does not; then it tells how it ended."""
    world = World({"retries": 100}, outcomes=("Published", *[reason] * 7), prepared=False)
    live(world, 600)
    attempts = len(world.attempts)
    assert attempts >= 5
    assert len(world.events) <= 5
    told = {event["reason"]: event for event in world.events.values()}
    assert (told["TrainStarted"]["count"], told["TrainStarted"]["type"]) == (attempts, "Normal")
    assert told[reason]["count"] in (attempts - 1, attempts)
    assert (told[reason]["type"], told[reason]["message"]) == (
        "Warning",
        f"train attempt {told[reason]['count']} ended: it was {reason}",
    )
    live(world, 2000)
    assert world.condition()["reason"] == "Published"
    assert len(world.events) <= 6
    assert story(world)[-1][:2] == ("Normal", "Published")


def test_the_last_failure_says_what_to_do() -> None:
    """One Warning for the reason: its last word is the verdict, with the hint."""
    world = World(
        {"retries": 2}, outcomes=("Published", "InternalError", "InternalError", "InternalError"), prepared=False
    )
    world.settle()
    kind, reason, count, message = story(world)[-1]
    assert (kind, reason, count) == ("Warning", "InternalError", 3)
    assert "it was InternalError. do this (after 3 attempts; spec.retries is 2)" in message
    assert [entry["message"] for entry in world.attempts] == ["it was InternalError"] * 3


def test_every_reason_is_specific() -> None:
    """CamelCase, Normal or Warning, and no word that says nothing; by way of suspension, preemption and a queue."""
    training = {"batchSize": 4, "microBatchSize": 2}
    world = QueuedWorld({"training": training}, outcomes=("Prepared", "Preempted", "OutOfGPUMemory"), prepared=False)
    world.reconcile()
    world.reconcile()
    world.settle()
    suspended = World()
    suspended.reconcile()
    suspended.make_pods()
    suspended.start_pods()
    suspended.edit(suspend=True)
    suspended.reconcile()
    told = {(kind, reason) for kind, reason, *_ in [*story(world), *story(suspended)]}
    assert told == {
        ("Normal", "Queued"),
        ("Normal", "PrepareStarted"),
        ("Normal", "Prepared"),
        ("Normal", "TrainStarted"),
        ("Warning", "Preempted"),
        ("Warning", "OutOfGPUMemory"),
        ("Normal", "Published"),
        ("Normal", "Suspended"),
    }


def test_a_restarted_operator_goes_on_counting() -> None:
    """What an Event is called follows from the object and the reason alone."""
    world = World({"retries": 9}, outcomes=("Published", "InternalError", "InternalError"), prepared=False)
    for _ in range(40):
        live(world, 5)
        world.restart()
    assert world.condition()["reason"] == "Published"
    counts = {reason: count for _, reason, count, _ in story(world)}
    assert counts["TrainStarted"] == 3
    assert counts["InternalError"] == 2
