"""Whatever happens in whatever order, and wherever the operator dies, the story ends as its causes say."""

import copy
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finetune_api.status import Status
from tests.controller.world import KEY, World, index_of

FINAL = {"InvalidDataset", "ModelNotFound", "Diverged", "QualityGateFailed"}
BATCH = {"batchSize": 12, "microBatchSize": 6}
"""Each GPU out of memory makes the micro-batch smaller: 6, 3, 1, and then there is nothing left to give up."""
SMALLER = {6: 3, 3: 1}
COUNTED = {"StorageUnavailable", "InternalError", "VerificationFailed"}

outcomes = st.lists(
    st.sampled_from(sorted(FINAL | COUNTED | {"Preempted", "Published", "OutOfGPUMemory"})), max_size=5
).map(tuple)
moves = st.lists(
    st.one_of(
        st.just(("reconcile",)),
        st.tuples(st.just("reconcile"), st.integers(1, 4)),  # and die after so many writes
        st.just(("make_pods",)),
        st.just(("start_pods",)),
        st.just(("end_pods",)),
        st.just(("sync_jobs",)),
        st.tuples(st.just("pass_time"), st.sampled_from([0.5, 5, 11, 400])),
        st.just(("restart",)),
    ),
    max_size=20,
)
suspensions = st.tuples(st.just("suspend"), st.booleans())


def expected(script: tuple[str, ...], retries: int) -> tuple[str, str, list[tuple[str, int]]]:
    """The end by the table of reasons: status and reason of Succeeded, and stage and micro-batch of each Job."""
    failures, micro, jobs = 0, 6, [("prepare", 6)]
    for reason in (*script, "Published", "Published"):
        stage, _ = jobs[-1]
        if reason == "Published" and stage == "train":
            return "True", "Published", jobs
        if reason in FINAL or (reason == "OutOfGPUMemory" and (stage == "prepare" or micro not in SMALLER)):
            return "False", reason, jobs
        if reason in COUNTED:
            failures += 1
            if failures > retries:
                return "False", reason, jobs
        if reason == "OutOfGPUMemory":
            micro = SMALLER[micro]
        if reason != "Preempted":
            jobs.append(("train" if reason == "Published" else stage, micro))
    raise AssertionError


def play(world: World, script: list[tuple[Any, ...]]) -> None:
    """Make the moves, and hold the laws after each."""
    for name, *arguments in script:
        if name == "suspend":
            world.edit(suspend=arguments[0])
        else:
            getattr(world, name)(*arguments)
        hold_laws(world)


def hold_laws(world: World) -> None:
    """What must be true at any moment."""
    attempts = [(stage, attempt) for stage, (attempt, _) in zip(world.stages, world.created, strict=True)]
    assert len(attempts) == len(set(attempts)), f"two Jobs for one attempt: {world.created}"
    assert len({name for _, name in world.created}) == len(attempts)
    live = [index_of(pod) for pod in world.pods if pod["status"]["phase"] in ("Pending", "Running")]
    assert len(live) == len(set(live)), "two trainers at once"
    several = [job["spec"]["template"]["spec"].get("subdomain") for job in world.jobs.values()]
    assert {name for name in several if name} <= world.services.keys(), "a Job whose pods have no names"


def hold_history_laws(world: World) -> None:
    """What must be true of all statuses that were ever written."""
    for before, after in pairwise(world.history):
        assert before != after, "a status write that changes nothing"
        old = {c["type"]: c for c in before["conditions"]}
        for condition in after["conditions"]:
            was = old[condition["type"]]
            moved = was["lastTransitionTime"] != condition["lastTransitionTime"]
            assert not moved or was["status"] != condition["status"], "lastTransitionTime moved without its status"
        if old["Succeeded"]["status"] != "Unknown":
            assert old["Succeeded"] == next(c for c in after["conditions"] if c["type"] == "Succeeded")
        assert [a["jobName"] for a in before["attempts"]] == [a["jobName"] for a in after["attempts"]][
            : len(before["attempts"])
        ]
        assert after["failures"] >= before["failures"]
    for status in world.history:
        Status.model_validate(status)
        published = any(c["type"] == "Succeeded" and c["status"] == "True" for c in status["conditions"])
        assert published or status.get("progress", {}).get("percentage") != "100%"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(
    ("Published", "OutOfGPUMemory", "InternalError", "OutOfGPUMemory"), 3, 1, False, []
)  # what was given up stays so
@given(
    outcomes,
    st.integers(0, 3),
    st.integers(1, 2),
    st.booleans(),
    st.lists(st.one_of(moves.filter(bool), suspensions.map(lambda s: [s])), max_size=4),
)
def test_any_order_any_crash_same_end(
    script: tuple[str, ...], retries: int, nodes: int, met: bool, story: list[list[Any]]
) -> None:
    """Order of events, duplicates, crashes after any write and suspensions in between do not change the end.

    On one node or on two: one Job an attempt, and for two nodes one Service with it. Nor does it matter whether the
    first pass knows from a watch that the job is new (`met`).
    """
    spec = {"retries": retries, "training": BATCH, "resources": {"gpus": 0, "nodes": nodes}}
    world = World(spec, script, prepared=False)
    if met:
        world.reconciler.met(copy.deepcopy(world.resource or {}))
    for part in story:
        play(world, part)
    world.edit(suspend=False)
    world.settle()
    status, reason, jobs = expected(script, retries)
    assert (world.condition()["status"], world.condition()["reason"]) == (status, reason)
    assert list(zip(world.stages, world.micro_batches, strict=True)) == jobs
    assert world.status["attempt"] == [stage for stage, _ in jobs].count(jobs[-1][0])
    assert len(world.services) == (world.stages.count("train") if nodes > 1 else 0)
    assert world.condition("Prepared")["status"] == ("True" if jobs[-1][0] == "train" else "False")
    assert world.condition("Stalled")["status"] == ("False" if status == "True" else "True")
    assert world.condition("Reconciling")["status"] == "False"
    hold_laws(world)
    hold_history_laws(world)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(outcomes, moves)
def test_second_pass_does_nothing(script: tuple[str, ...], story: list[Any]) -> None:
    """A pass over an unchanged world writes nothing, wherever the story stands."""
    world = World(outcomes=script, prepared=False)
    play(world, story)
    for _ in range(3):
        world.reconcile()  # a verdict or a resumption may need a pass of its own to be cleaned up after
    before = list(world.writes)
    world.reconcile()
    assert world.writes == before


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 12))
def test_crash_between_job_and_status(writes: int) -> None:
    """Dying right after the Job's creation, or any later write, never makes a second Job for the attempt."""
    world = World(prepared=False)
    for _ in range(5):
        world.reconcile(crash_after=writes)
        world.restart()
    assert world.created == [("1", next(iter(world.jobs)))]


def test_a_micro_batch_that_was_never_recorded_is_read_from_its_job() -> None:
    """Dying between the smaller attempt's Job and its status does not make the attempt after it as large again."""
    world = World({"training": BATCH}, ("OutOfGPUMemory", "OutOfGPUMemory"))
    for _ in range(2):
        world.reconcile()
        world.make_pods()
        world.start_pods()
        world.end_pods()
        world.sync_jobs()
        world.reconcile()
        world.pass_time(60)
        world.reconcile(crash_after=1)  # the Job is there, and nobody wrote it down
    assert world.micro_batches == [6, 3, 1]


def test_ttl_deletes_the_object_once() -> None:
    """TtlSecondsAfterFinished counts from the verdict, and a deleted object brings no error and no Job back."""
    world = World({"ttlSecondsAfterFinished": 100})
    world.settle()
    left = world.reconcile()
    assert left is not None
    assert 0 < left <= 100
    world.pass_time(left + 1)
    world.reconcile()
    assert world.resource is None
    assert world.reconcile() is None
    assert not world.jobs
    assert KEY not in world.reconciler._written


def test_the_story_is_told_in_events() -> None:
    """One failure, one success: the Events say so in order, each Normal or Warning, and no two say the same."""
    world = World(outcomes=("InternalError",), prepared=False)
    world.settle()
    told = [(event["type"], event["reason"]) for event in world.events.values()]
    reasons = [reason for _, reason in told]
    assert [r for r in reasons if r in ("AttemptStarted", "InternalError", "Retrying", "Prepared", "Published")] == [
        "AttemptStarted",
        "InternalError",
        "Retrying",
        "AttemptStarted",
        "Prepared",
        "AttemptStarted",
        "Published",
    ]
    times = [event["lastTimestamp"] for event in world.events.values()]
    assert times == sorted(set(times)), "kubectl sorts by this time"
    assert ("Warning", "InternalError") in told
    assert ("Normal", "Published") in told
    assert {kind for kind, _ in told} <= {"Normal", "Warning"}
