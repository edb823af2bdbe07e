"""What is not the job's fault: it is counted once each, costs no attempt, and is never taken for something else."""

from typing import Any

from tests.controller.test_evidence import fail_job, finish, running
from tests.controller.world import World, stamp, termination_message

QUOTA = 'pods "bot-1f" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'


def refuse_pods(world: World) -> None:
    """A quota on pods: the Job controller says so in an Event."""

    async def events_about(*_: Any) -> list[dict[str, Any]]:
        return [{"type": "Warning", "reason": "FailedCreate", "message": QUOTA}]

    world.events_about = events_about  # type: ignore[method-assign]


def test_each_drain_counts_once() -> None:
    """Five nodes are drained one after the other; the cluster takes away each pod that was interrupted."""
    world = World()
    for number in range(1, 6):
        pod = running(world)
        finish(pod, 75, termination_message("Preempted"))
        for _ in range(3):
            world.reconcile()
        assert world.status["preemptions"] == number
        world.pods.remove(pod)
        world.reconcile()
        assert world.status["preemptions"] == number
    assert (world.status["failures"], len(world.created)) == (0, 1)


def test_who_was_interrupted_goes_on_whatever_retries_says() -> None:
    """`retries` is lowered below the failures so far: the next preemption is none of them."""
    world = World({"retries": 3})
    for _ in range(2):
        finish(running(world), 70, termination_message("InternalError"))
        world.sync_jobs()
        world.reconcile()
        world.pass_time(700)
    assert world.status["failures"] == 2
    pod = running(world)
    world.edit(retries=1)
    pod["metadata"]["deletionTimestamp"] = stamp(world.now)
    finish(pod, 137)
    fail_job(world)
    world.reconcile()
    assert world.attempts[-1]["reason"] == "Preempted"
    assert world.condition()["status"] == "Unknown"
    world.settle()
    assert world.condition()["reason"] == "Published"


def test_a_process_that_the_kernel_killed_is_not_the_trainer() -> None:
    """Some runtimes call a container OOMKilled for any of its processes: what the trainer proves counts."""
    world = World()
    finish(running(world), 0, termination_message("Published"), reason="OOMKilled")
    world.settle()
    assert (world.condition()["status"], world.condition()["reason"]) == ("True", "Published")


def test_a_resumed_job_that_a_quota_holds_back_is_late_too() -> None:
    """It has run before; what keeps its next pod away is known, and the pending deadline counts."""
    world = World({"deadlines": {"pendingSeconds": 60}})
    running(world)
    world.edit(suspend=True)
    world.reconcile()
    world.sync_jobs()
    world.sync_jobs()
    world.reconcile()
    world.edit(suspend=False)
    world.reconcile()
    world.sync_jobs()
    world.pods.clear()
    refuse_pods(world)
    world.reconcile()
    assert world.condition()["reason"] == "QuotaExceeded"
    world.pass_time(61)
    world.reconcile()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "PendingDeadlineExceeded")


def test_who_waits_for_long_is_asked_about_less() -> None:
    """A thousand jobs behind a quota: each is looked at after 5 s at first, and in the end once a minute."""
    world = World({"deadlines": {"pendingSeconds": 1_000_000}})
    refuse_pods(world)
    world.reconcile()
    looks = []
    for waited in (0, 40, 160, 10_000):
        world.pass_time(waited)
        looks.append(world.reconcile())
    assert looks == [5, 5, 20, 60]
