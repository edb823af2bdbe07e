"""Every clock of an attempt: what it counts, what stops it, and what follows when it is over."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.controller.kueue import QueuedWorld
from tests.controller.test_evidence import running, waiting
from tests.controller.world import World, finish, stamp, termination_message

TRAINING = {"phase": "Training", "total_steps": 100, "resumed_from": 0}


def verdict(world: World) -> tuple[str, str]:
    """Status and reason of Succeeded."""
    return world.condition()["status"], world.condition()["reason"]


def let_pods_go(world: World) -> None:
    """The operator's next passes, and what the cluster does upon them."""
    for _ in range(3):
        world.reconcile()
        world.sync_jobs()


def live(world: World) -> list[dict[str, Any]]:
    """Pods that hold something."""
    return [pod for pod in world.pods if pod["status"]["phase"] in ("Pending", "Running")]


def test_preparing_costs_no_time_to_train() -> None:
    """Rows that take an hour to read end nothing that may train for a minute."""
    world = World({"deadlines": {"activeSeconds": 60}}, prepared=False)
    running(world)
    world.pass_time(3600)
    world.reconcile()
    assert verdict(world)[0] == "Unknown"
    assert world.stages == ["prepare"]


@pytest.mark.parametrize("restart", [False, True])
def test_waiting_is_final_after_pending_seconds(restart: bool) -> None:
    """Woken for it, not polling; a new operator knows as well since when it waits, and no pod is left."""
    world = World({"deadlines": {"pendingSeconds": 600}})
    waiting(world)
    left = world.reconcile()
    assert left == 600
    world.pass_time(599)
    if restart:
        world.restart()
    assert world.reconcile() == 1
    assert verdict(world)[0] == "Unknown"
    world.pass_time(1)
    assert world.reconcile() == 0
    assert verdict(world) == ("False", "PendingDeadlineExceeded")
    assert "spec.deadlines.pendingSeconds (600)" in world.condition()["message"]
    let_pods_go(world)
    assert live(world) == []
    assert len(world.created) == 1


def test_a_deadline_may_be_changed_while_it_runs() -> None:
    """The new one counts from the same moment, and nobody has to touch the Job."""
    world = World({"deadlines": {"pendingSeconds": 600}})
    waiting(world)
    world.pass_time(500)
    world.edit(deadlines={"pendingSeconds": 1000})
    assert world.reconcile() == 500
    world.edit(deadlines={"pendingSeconds": 400})
    world.reconcile()
    assert verdict(world) == ("False", "PendingDeadlineExceeded")


def test_a_day_by_default() -> None:
    """A pod that no node ever takes does not wait for ever, whether or not anybody thought of it."""
    world = World()
    waiting(world)
    assert world.reconcile() == 86_400


@pytest.mark.parametrize(
    ("said", "late"),
    [
        ({"phase": "Loading", "message": "loading the base model"}, True),
        ({"phase": "Starting"}, True),
        ({**TRAINING, "step": 0}, True),
        ({**TRAINING, "step": 40, "resumed_from": 40}, True),
        ({**TRAINING, "step": 1}, False),
        ({**TRAINING, "step": 41, "resumed_from": 40}, False),
        ({**TRAINING, "step": 100, "resumed_from": 100}, False),  # it has trained to its end, and is to be published
        ({"phase": "Publishing"}, False),
        (None, False),  # nobody knows
    ],
)
def test_no_step_within_start_seconds(said: dict[str, Any] | None, late: bool) -> None:
    """A container that is up and takes no step is stopped and tried again; one that is not heard of is left alone."""
    world = World({"deadlines": {"startSeconds": 600, "stallSeconds": 10_000}})
    running(world)
    world.pass_time(300)
    if said is not None:
        world.say(**said)
    left = world.reconcile()
    assert (left is not None and left <= 300) == late
    world.pass_time(300)
    again = world.reconcile()
    (attempt,) = world.attempts
    assert attempt.get("reason") == ("StartDeadlineExceeded" if late else None)
    if late:
        assert again == 0, "the next pass stops its Job"
        assert said is not None
        assert "spec.deadlines.startSeconds (600)" in attempt["message"]
        assert said.get("message", "") in attempt["message"]
        let_pods_go(world)
        assert live(world) == []
        assert world.status["failures"] == 1
        world.settle()
        assert verdict(world) == ("True", "Published")
        assert [number for number, _ in world.created] == ["1", "2"]


def test_the_start_clock_is_the_containers() -> None:
    """Waiting before it does not count, and a pod that replaces an interrupted one starts anew."""
    world = World({"deadlines": {"startSeconds": 600}})
    waiting(world)
    world.pass_time(5000)
    pod = running(world)
    world.say(**TRAINING, step=5)
    world.reconcile()
    world.pass_time(5000)
    world.say(**TRAINING, step=50)
    world.reconcile()
    finish(pod, 75, termination_message("Preempted"), at=world.now)
    world.reconcile()
    world.make_pods()
    world.start_pods()
    world.reconcile()
    world.say(phase="Loading")
    world.pass_time(599)
    world.reconcile()
    assert "reason" not in world.attempts[0]
    world.pass_time(1)
    world.reconcile()
    assert world.attempts[0]["reason"] == "StartDeadlineExceeded"


def test_at_a_breakpoint_no_step_is_taken() -> None:
    """With debugpy a person may look at it for as long as they want."""
    world = World({"debug": {"debugpy": {}}, "deadlines": {"startSeconds": 600, "stallSeconds": 10_000}})
    running(world)
    world.say(phase="Loading")
    world.pass_time(5000)
    world.reconcile()
    assert "reason" not in world.attempts[0]


def test_prepare_has_no_steps() -> None:
    """The first stage takes as long as its rows take; silence ends it, too."""
    world = World({"deadlines": {"startSeconds": 600, "stallSeconds": 900}}, prepared=False)
    running(world)
    world.say(phase="Preparing")
    world.pass_time(800)
    world.reconcile()
    assert "reason" not in world.status["attempts"][0]
    world.pass_time(100)
    world.reconcile()
    assert world.status["attempts"][0]["reason"] == "TrainerSilent"


def test_a_pod_deleted_by_force_is_replaced() -> None:
    """It is gone without a word; the Job makes another one in the same attempt, and nothing is counted."""
    world = World({"resources": {"gpus": 1}})
    running(world)
    world.pass_time(60)
    world.pods.clear()
    world.reconcile()
    world.pass_time(60)
    world.settle()
    assert verdict(world) == ("True", "Published")
    assert (world.status["preemptions"], world.status["failures"], len(world.created)) == (0, 0, 1)
    assert world.status["gpuSeconds"] == 60


def test_active_seconds_are_final_and_save_a_checkpoint() -> None:
    """Over all attempts; the trainer is told to stop as for a suspension, and no GPU is held afterwards."""
    world = World({"deadlines": {"activeSeconds": 1000}, "retries": 5}, ("InternalError",))
    running(world)
    world.pass_time(400)
    world.end_pods()
    world.sync_jobs()
    world.reconcile()
    world.pass_time(5000)  # the pause does not count
    running(world)
    assert world.reconcile() == 600
    world.pass_time(599)
    assert world.reconcile() == 1
    world.pass_time(1)
    world.reconcile()
    assert verdict(world) == ("False", "DeadlineExceeded")
    assert "spec.deadlines.activeSeconds is 1000" in world.condition()["message"]
    assert "checkpoints of this one stay" in world.condition()["message"]
    let_pods_go(world)
    assert live(world) == []
    assert world.status["trainingSeconds"] == 1000


stops = st.lists(st.tuples(st.sampled_from(["suspend", "evict"]), st.integers(1, 90), st.integers(1, 5000)), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.booleans(), stops, st.booleans())
def test_the_active_clock_stands_while_suspended_or_queued(
    queued: bool, script: list[tuple[str, int, int]], restart: bool
) -> None:
    """However often it is stopped, and however long it waits: 1000 s of training, neither more nor less."""
    spec = {"deadlines": {"activeSeconds": 1000, "pendingSeconds": 31_536_000}}
    world: World = QueuedWorld(spec) if queued else World(spec)
    passes = 3

    def settle_in() -> None:
        for _ in range(passes):
            world.reconcile()
            if isinstance(world, QueuedWorld) and world.resource and not world.resource["spec"].get("suspend"):
                world.admit()
            world.sync_jobs()
            world.make_pods()
            world.reconcile()

    settle_in()
    trained = 0
    for how, runs, waits in script:
        world.pass_time(waits)  # no node for so long
        world.reconcile()
        world.start_pods()
        world.reconcile()
        world.pass_time(runs)
        trained += runs
        if restart:
            world.restart()
        if isinstance(world, QueuedWorld) and how == "evict":
            world.evict()
        else:
            world.edit(suspend=True)
        for _ in range(passes):
            world.reconcile()
            world.sync_jobs()
        world.reconcile()
        assert not [pod for pod in world.pods if pod["status"]["phase"] == "Running"]
        world.pass_time(waits)
        world.edit(suspend=False)
        settle_in()
    world.start_pods()
    world.reconcile()
    assert verdict(world)[0] == "Unknown"
    world.pass_time(1000 - trained - 1)
    assert world.reconcile() == 1
    world.pass_time(1)
    world.reconcile()
    assert verdict(world) == ("False", "DeadlineExceeded")


def test_a_pod_that_outlives_its_trainer_is_stopped() -> None:
    """A sidecar that knows no end keeps pod and GPUs: seconds after the trainer's end the Job goes, its word counts."""
    for reason, follows in (("Published", ("True", "Published")), ("InternalError", ("Unknown", "Retrying"))):
        world = World()
        pod = running(world)
        finish(pod, 0 if reason == "Published" else 70, termination_message(reason), at=world.now)
        pod["status"]["phase"] = "Running"
        left = world.reconcile()
        assert left is not None
        assert left <= 15
        assert "reason" not in world.attempts[0]
        world.pass_time(left)
        world.reconcile()
        assert world.attempts[0]["reason"] == reason
        world.reconcile()
        (job,) = world.jobs.values()
        assert job["spec"].get("suspend") or "deletionTimestamp" in job["metadata"]
        assert verdict(world) == follows


def test_an_interrupted_pod_is_the_jobs_to_replace() -> None:
    """However long that takes: nothing is held meanwhile."""
    world = World()
    pod = running(world)
    finish(pod, 75, termination_message("Preempted"), at=world.now)
    world.reconcile()
    world.pass_time(1000)
    world.reconcile()
    assert "reason" not in world.attempts[0]


def test_waiting_in_a_queue_is_no_deadline() -> None:
    """Of all clocks none runs for a Job that is Kueue's."""
    world = QueuedWorld({"deadlines": {"pendingSeconds": 1, "startSeconds": 1, "stallSeconds": 1, "activeSeconds": 1}})
    for _ in range(3):
        assert world.reconcile() in (None, 5)
        world.pass_time(100_000)
    assert verdict(world) == ("Unknown", "Queued")


def test_clocks_that_disagree_end_nothing_early() -> None:
    """A node whose clock is ahead: no deadline is over before its time."""
    world = World({"deadlines": {"startSeconds": 600, "activeSeconds": 600, "stallSeconds": 10_000}})
    pod = running(world)
    ahead = stamp(world.now + timedelta(seconds=30))
    pod["status"] |= {
        "startTime": ahead,
        "containerStatuses": [{"name": "trainer", "state": {"running": {"startedAt": ahead}}}],
    }
    world.say(phase="Loading")
    world.reconcile()
    world.pass_time(599)
    world.reconcile()
    assert "reason" not in world.attempts[0]
    world.pass_time(60)
    world.reconcile()
    assert world.attempts[0]["reason"] in ("StartDeadlineExceeded", "DeadlineExceeded")
