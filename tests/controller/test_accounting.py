"""The books of a job's time: what they say is what a clock beside the cluster has measured."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finetune_operator.accounting import Sums, sums
from finetune_operator.spans import Span
from tests.controller.kueue import QueuedWorld
from tests.controller.test_evidence import running
from tests.controller.test_queueing import moves as queue_moves
from tests.controller.world import START, World, deleted, finish, stamp, termination_message

GPUS = 2
SUMS = ("queuedSeconds", "preparingSeconds", "trainingSeconds", "gpuSeconds")
MOVES = ("make_pods", "bind_pods", "start_pods", "end_pods", "sync_jobs", "admit", "evict")
scripts = st.lists(
    st.one_of(
        st.sampled_from([(name,) for name in (*MOVES, "restart")]),
        st.tuples(st.just("pass_time"), st.integers(1, 500)),
        st.tuples(st.just("suspend"), st.booleans()),
    ),
    max_size=60,
)
outcomes = st.lists(st.sampled_from(["Preempted", "Published", "InternalError", "OutOfGPUMemory"]), max_size=5).map(
    tuple
)
FORWARD = [("make_pods",), ("pass_time", 7), ("bind_pods",), ("pass_time", 11), ("start_pods",), ("pass_time", 100)]


class Beside:
    """A clock beside the cluster: it sees each second what is there, and knows nothing of the operator's status."""

    def __init__(self) -> None:
        self.measured = dict.fromkeys(SUMS, 0)

    def pass_time(self, world: World, seconds: int) -> None:
        """So long all stays as it is."""
        for job in world.jobs.values():
            pods = [pod for pod in world._pods_of(job) if pod["status"]["phase"] in ("Pending", "Running")]
            holding = sum("startTime" in pod["status"] for pod in pods)
            runs = any(pod["status"]["phase"] == "Running" for pod in pods)
            train = job["metadata"]["labels"]["finetune.dev/stage"] == "train"
            asleep = job["spec"].get("suspend") and "kueue.x-k8s.io/queue-name" not in job["metadata"]["labels"]
            self.measured["gpuSeconds"] += seconds * holding * GPUS * train
            self.measured["trainingSeconds" if train else "preparingSeconds"] += seconds * runs
            over = deleted(job) or job["status"].get("conditions")
            self.measured["queuedSeconds"] += seconds * (not holding and not asleep and not over)
        world.pass_time(seconds)


def world_of(queued: bool, nodes: int, script: tuple[str, ...]) -> Any:
    """A job with GPUs, in a queue or not."""
    spec = {"resources": {"gpus": GPUS, "nodes": nodes}, "training": {"batchSize": 8 * nodes, "microBatchSize": 4}}
    return (QueuedWorld if queued else World)({**spec, "retries": 9}, script, prepared=False)


def move(world: Any, beside: Beside, name: str, arguments: list[Any]) -> None:
    """Make one."""
    if name == "pass_time":
        beside.pass_time(world, *arguments)
    elif name == "suspend":
        world.edit(suspend=arguments[0])
    elif name not in ("admit", "evict") or isinstance(world, QueuedWorld):
        getattr(world, name)(*arguments)


def sums_of(status: dict[str, Any]) -> dict[str, int]:
    """What the status says in all."""
    return {name: status.get(name, 0) for name in SUMS}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(False, 2, ("Preempted",), [*FORWARD, ("end_pods",), *FORWARD, ("suspend", True), ("sync_jobs",), *FORWARD])
@example(True, 1, (), [("admit",), *FORWARD, ("evict",), ("sync_jobs",), ("pass_time", 50), ("admit",), *FORWARD])
@given(st.booleans(), st.integers(1, 2), outcomes, scripts)
def test_the_books_are_what_a_clock_measures(
    queued: bool, nodes: int, script: tuple[str, ...], story: list[tuple[Any, ...]]
) -> None:
    """Over any timeline of waiting, running, eviction, suspension, failure and restarts of the operator, to the second.

    The sums of the attempts are those of the job.
    """
    world, beside = world_of(queued, nodes, script), Beside()
    for name, *arguments in [*story, ("suspend", True), ("sync_jobs",), ("sync_jobs",), ("sync_jobs",)]:
        move(world, beside, name, arguments)
        for _ in range(3):
            world.reconcile()
    assert not [pod for pod in world.pods if pod["status"]["phase"] == "Running"]
    told = sums_of(world.status)
    attempts = world.status["attempts"]
    waits = [a for a in attempts if a.get("account") == "Queued"]  # its time is written down when it changes
    told["queuedSeconds"] += sum((world.now - START).total_seconds() - at(a) for a in waits)
    assert told == beside.measured
    assert world.status["gpuSeconds"] == sum(a["gpuSeconds"] for a in attempts)
    assert world.status["queuedSeconds"] == sum(a["queuedSeconds"] for a in attempts)
    spent = world.status["preparingSeconds"] + world.status["trainingSeconds"]
    assert spent == sum(a["runningSeconds"] for a in attempts)


def at(attempt: dict[str, Any]) -> float:
    """Seconds from the start of the world to where its books are."""
    hours, minutes, seconds = map(int, attempt["countedUntil"][11:19].split(":"))
    day = int(attempt["countedUntil"][8:10])
    return (day - START.day) * 86_400 + (hours - 12) * 3600 + minutes * 60 + seconds


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(outcomes, st.integers(1, 2), queue_moves, st.integers(-30, 30))
def test_no_sum_ever_goes_back_or_beyond_the_time_that_was(
    script: tuple[str, ...], nodes: int, story: list[tuple[Any, ...]], skew: int
) -> None:
    """Whatever the operator misses, wherever it dies, and whatever the nodes' clocks say."""
    world = world_of(True, nodes, script)
    for name, *arguments in story:
        if name == "suspend":
            world.edit(suspend=arguments[0])
        elif name != "queue":
            getattr(world, name)(*arguments)
        for pod in world.pods:
            if name == "start_pods" and pod["status"]["phase"] == "Running":
                pod["status"]["startTime"] = stamp(world.now + timedelta(seconds=skew))
    world.reconcile()
    elapsed = (world.now - START).total_seconds() + 1
    for before, after in pairwise(world.history):
        for name in (*SUMS, "stepsLost"):
            assert after[name] >= before[name] >= 0
    for status in world.history:
        assert status["trainingSeconds"] + status["preparingSeconds"] <= elapsed
        assert status["queuedSeconds"] <= elapsed
        assert status["gpuSeconds"] <= elapsed * nodes * GPUS


def s(seconds: int) -> Any:
    """So long after the start."""
    return START + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("account", "pods", "spans", "stopped", "expected"),
    [
        ("Queued", 0, [], None, Sums(queued=100)),
        ("Queued", 0, [Span(s(30), s(40))], None, Sums(queued=30, running=60, held=70)),
        ("Queued", 0, [Span(s(30), s(40), s(50), s(50))], None, Sums(queued=30, running=10, held=20)),
        (
            "Queued",
            0,
            [Span(s(-90), s(-80), s(5), s(5))],
            None,
            Sums(queued=100, running=5, held=5),
        ),  # its clock is ahead
        ("Running", 1, [Span(s(-50), s(-40))], None, Sums(running=100, held=100)),
        ("Running", 1, [], None, Sums(running=100, held=100)),  # gone without a word
        ("Running", 1, [], s(20), Sums(running=20, held=20)),  # but the Job says since when
        ("Running", 1, [Span(s(70), s(80))], None, Sums(running=90, held=100)),  # another has taken its place
        ("Running", 2, [Span(s(-50), s(-40))], s(20), Sums(running=100, held=120)),
        ("Running", 2, [Span(s(-9), s(-9)), Span(s(-9), s(-9), s(60), s(60))], None, Sums(running=100, held=160)),
        ("Running", 1, [Span(s(-9), s(-9), s(60))], None, Sums(running=60, held=100)),  # a sidecar keeps the pod
        ("Starting", 1, [Span(s(-9), None)], None, Sums(held=100)),
        ("Suspended", 0, [], None, Sums()),
    ],
)
def test_one_window(account: str, pods: int, spans: list[Span], stopped: Any, expected: Sums) -> None:
    """A hundred seconds, by what is seen at their end."""
    assert sums(account, pods, spans, (s(0), s(100)), stopped) == expected


def preempted(world: World, step: int) -> None:
    """The pod is told to stop, having come so far, and its replacement runs."""
    world.say(phase="Training", step=step, total_steps=100, resumed_from=world.status["progress"].get("resumedFrom", 0))
    world.reconcile()
    (pod,) = (pod for pod in world.pods if pod["status"]["phase"] == "Running")
    finish(pod, 75, termination_message("Preempted"), at=world.now)
    world.pass_time(20)
    world.reconcile()
    world.make_pods()
    world.start_pods()
    world.reconcile()


@pytest.mark.parametrize("loads", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
def test_steps_done_again(loads: bool, restarts: bool) -> None:
    """From the last step that was heard of down to the one that it goes on from, of every interruption, once."""
    world = World()
    running(world)
    world.say(phase="Training", step=1, total_steps=100, resumed_from=0)
    world.reconcile()
    assert (world.attempts[0]["resumedFrom"], world.status["stepsLost"]) == (0, 0)
    for reached, back in ((57, 50), (70, 70), (90, 80)):
        preempted(world, reached)
        if restarts:
            world.restart()
            world.reconcile()
        if loads:
            world.say(phase="Loading")
            world.reconcile()
            assert world.status["progress"]["step"] == reached, "it is not lost before it is known where it goes on"
        for step in (back, back + 1, back + 15):
            world.say(phase="Training", step=step, total_steps=100, resumed_from=back)
            world.reconcile()
            world.reconcile()
            world.pass_time(5)
    assert world.status["stepsLost"] == world.attempts[0]["stepsLost"] == 7 + 0 + 10
    assert world.attempts[0]["resumedFrom"] == 0


def test_the_next_attempt_says_where_it_began() -> None:
    """From the progress, or from the termination message of one that ended before anybody had asked it."""
    world = World(outcomes=("InternalError",))
    running(world)
    world.say(phase="Training", step=30, total_steps=100, resumed_from=0)
    world.reconcile()
    world.end_pods()
    world.sync_jobs()
    world.reconcile()
    world.pass_time(60)
    pod = running(world)
    said = termination_message("StorageUnavailable").replace('"step": 7', '"step": 24, "resumedFrom": 20')
    finish(pod, 69, said, at=world.now)
    world.sync_jobs()
    world.sync_jobs()
    world.reconcile()
    assert [a.get("resumedFrom") for a in world.attempts] == [0, 20]
    assert [a["stepsLost"] for a in world.attempts] == [0, 10]
    assert world.status["stepsLost"] == 10


def test_the_estimated_end_is_a_time() -> None:
    """By the trainer's own estimate, from when it made it; gone with the estimate."""
    world = World()
    running(world)
    world.say(phase="Training", step=1, total_steps=4, eta_seconds=250, resumed_from=0)
    world.reconcile()
    assert world.status["progress"]["estimatedCompletionTime"] == stamp(s(250))
    world.edit(suspend=True)
    world.reconcile()
    world.sync_jobs()
    world.reconcile()
    assert "estimatedCompletionTime" not in world.status["progress"]


def test_time_alone_writes_nothing() -> None:
    """The books are carried on when an attempt changes its state, not with each pass: an idle cluster is silent."""
    world = World()
    running(world)
    world.reconcile()
    before = len(world.writes)
    for _ in range(5):
        world.pass_time(30)
        world.reconcile()
    assert len(world.writes) == before
