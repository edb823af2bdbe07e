"""A job in a queue: its Job is Kueue's. Eviction costs nothing but time, and the operator never acts against Kueue."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.load import parse_job
from finetune_api.names import Stage
from finetune_operator.desired import job_manifest
from tests.controller.kueue import LABEL, PREEMPTED, QueuedWorld
from tests.controller.test_convergence import COUNTED, FINAL, expected, hold_history_laws, hold_laws, outcomes
from tests.controller.world import KEY, SETTINGS, SPEC, UID, World, finish, termination_message

BATCH = {"batchSize": 12, "microBatchSize": 6}
moves = st.lists(
    st.one_of(
        st.just(("reconcile",)),
        st.tuples(st.just("reconcile"), st.integers(1, 4)),  # and die after so many writes
        st.sampled_from([(name,) for name in ("make_pods", "start_pods", "end_pods", "sync_jobs", "admit", "evict")]),
        st.tuples(st.just("pass_time"), st.sampled_from([0.5, 11, 400])),
        st.just(("restart",)),
        st.tuples(st.just("suspend"), st.booleans()),
        st.tuples(st.just("queue"), st.sampled_from(["team-a", "team-b"])),
    ),
    max_size=40,
)


def play(world: QueuedWorld, script: list[tuple[Any, ...]]) -> None:
    """Make the moves, and hold the laws after each; a queue changes only as the schema lets it."""
    for name, *arguments in script:
        if name == "suspend":
            world.edit(suspend=arguments[0])
        elif name == "queue":
            if world.resource["spec"].get("suspend"):  # type: ignore[index]
                world.edit(queueName=arguments[0])
        else:
            getattr(world, name)(*arguments)
        hold_laws(world)
        assert world.trespasses == []


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(outcomes, st.integers(0, 3), st.integers(1, 2), moves)
def test_any_eviction_any_suspension_same_end(
    script: tuple[str, ...], retries: int, nodes: int, story: list[tuple[Any, ...]]
) -> None:
    """Whenever Kueue admits and evicts, and people suspend, resume and move: the end is that of the trainers' words.

    Nothing of it counts as a failure, there is never a second trainer, and nothing that is Kueue's is ever written.
    """
    spec = {"retries": retries, "resources": {"gpus": 0, "nodes": nodes}, "training": BATCH}
    world = QueuedWorld(spec, script, prepared=False)
    play(world, story)
    world.edit(suspend=False)
    world.settle()
    status, reason, jobs = expected(script, retries)
    assert (world.condition()["status"], world.condition()["reason"]) == (status, reason)
    told = [attempt for attempt in world.status["attempts"] if attempt["reason"] != "Suspended"]
    assert len(told) == len(jobs)
    assert world.status["failures"] == sum(attempt["reason"] in COUNTED | FINAL for attempt in told)
    assert world.condition("Suspended")["status"] == "False"
    assert world.trespasses == []
    hold_laws(world)
    hold_history_laws(world)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(outcomes, moves)
def test_second_pass_does_nothing(script: tuple[str, ...], story: list[tuple[Any, ...]]) -> None:
    """A pass over an unchanged world writes nothing, wherever the story stands."""
    world = QueuedWorld(outcomes=script, prepared=False)
    play(world, story)
    for _ in range(3):
        world.reconcile()
    before = list(world.writes)
    world.reconcile()
    assert world.writes == before


@pytest.mark.parametrize("stage", list(Stage))
def test_both_stages_wait_in_the_queue(stage: Stage) -> None:
    """The labels are on the Job alone, and it is born suspended: with Kueue down nothing runs past the quota."""
    spec = {**SPEC, "queueName": "team-a", "workloadPriorityClassName": "high"}
    document = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": KEY[1], "labels": {LABEL: "somebody-elses"}},
    }

    def made(spec: dict[str, Any]) -> dict[str, Any]:
        job = parse_job({**document, "spec": spec})
        return job_manifest(job, namespace=KEY[0], uid=UID, stage=stage, attempt=1, settings=SETTINGS)

    job = made(spec)
    assert job["spec"]["suspend"] is True
    assert {k: v for k, v in job["metadata"]["labels"].items() if "kueue" in k} == {
        "kueue.x-k8s.io/queue-name": "team-a",
        "kueue.x-k8s.io/priority-class": "high",
    }
    assert not [label for label in job["spec"]["template"]["metadata"]["labels"] if "kueue" in label]
    for resources in (container["resources"] for container in job["spec"]["template"]["spec"]["containers"]):
        assert {"cpu", "memory"} <= resources["requests"].keys(), "Kueue counts requests"
    plain = made(SPEC)
    assert "suspend" not in plain["spec"]
    assert not [label for label in plain["metadata"]["labels"] if "kueue" in label]


def running(world: QueuedWorld) -> dict[str, Any]:
    """Admit the Job that waits, and bring it to a running trainer; returns its pod."""
    world.reconcile()
    world.admit()
    world.make_pods()
    world.start_pods()
    world.reconcile()
    return next(pod for pod in world.pods if pod["status"]["phase"] == "Running")


def test_waiting_is_shown_and_no_deadline_runs() -> None:
    """Queued with its queue and how to find out more; it is neither suspended nor late, however long it takes."""
    world = QueuedWorld({"deadlines": {"pendingSeconds": 60}})
    for _ in range(3):
        world.reconcile()
        world.pass_time(10_000)
    assert (world.condition()["status"], world.condition()["reason"]) == ("Unknown", "Queued")
    assert "queue team-a" in world.condition()["message"]
    assert "kubectl get workloads" in world.condition()["message"]
    assert world.condition("Suspended")["status"] == "False"
    assert world.condition("Stalled")["status"] == "False"
    pod = running(world)
    assert pod["spec"]["nodeSelector"] == {"cloud/pool": "spot-gpus"}
    assert world.condition()["reason"] != "Queued"


def test_pending_deadline_counts_from_admission() -> None:
    """Once admitted, a pod that no node takes is late as any other.

    Then the Job leaves the queue instead of being suspended, which Kueue would undo.
    """
    world = QueuedWorld({"deadlines": {"pendingSeconds": 60}})
    world.reconcile()
    world.pass_time(10_000)
    world.admit()
    world.make_pods()
    world.reconcile()
    assert world.condition()["status"] == "Unknown"
    world.pass_time(61)
    world.reconcile()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "PendingDeadlineExceeded")
    world.reconcile()
    world.sync_jobs()
    assert not world.jobs
    assert world.trespasses == []


def test_eviction_is_told_and_goes_on_in_the_same_attempt() -> None:
    """Kueue's own words, from its Event; after re-admission the same Job goes on, and nothing is counted."""
    world = QueuedWorld()
    running(world)
    world.evict()
    world.reconcile()
    assert "saves a checkpoint" in world.condition()["message"]
    world.sync_jobs()
    world.sync_jobs()
    world.reconcile()
    assert not world.pods
    assert world.condition()["reason"] == "Queued"
    assert PREEMPTED in world.condition()["message"]
    (job,) = world.jobs.values()
    assert "nodeSelector" not in job["spec"]["template"]["spec"], "the double restores the template, as Kueue does"
    world.settle()
    assert world.condition()["reason"] == "Published"
    assert (len(world.created), world.status["failures"], world.admissions) == (1, 0, 2)


def test_suspending_takes_the_job_out_of_the_queue() -> None:
    """First it is written down, then the Job goes, with its pods' grace; resuming is an attempt that waits anew."""
    world = QueuedWorld()
    running(world)
    world.edit(suspend=True)
    assert world.reconcile() == 0
    assert world.attempts[-1]["reason"] == "Suspended"
    assert world.jobs, "a crash here must not make it a Job that somebody deleted"
    world.restart()
    world.reconcile()
    (job,) = world.jobs.values()
    assert "deletionTimestamp" in job["metadata"]
    world.edit(suspend=False)
    world.reconcile()
    assert len(world.created) == 1, "its pod still runs"
    world.sync_jobs()
    world.reconcile()
    assert len(world.created) == 1, "its pod has just ended, the Job is still there"
    world.sync_jobs()
    world.reconcile()
    assert len(world.created) == 2
    assert world.status["preemptions"] == 0
    assert world.condition()["reason"] == "Pending"
    world.settle()
    assert world.condition()["reason"] == "Published"
    assert world.status["failures"] == 0
    assert [event["type"] for event in world.events.values() if event["reason"] == "Suspended"] != ["Warning"]


def test_what_leaves_the_queue_is_gone_before_the_next_waits() -> None:
    """Until it is, Kueue may admit it: there could be two trainers."""
    world = QueuedWorld()
    world.reconcile()
    world.edit(suspend=True)
    world.reconcile()
    world.edit(suspend=False)
    world.reconcile()
    assert len(world.created) == 1
    world.sync_jobs()
    world.reconcile()
    assert len(world.created) == 2


def test_what_the_trainer_said_before_it_was_stopped_counts() -> None:
    """An adapter that was published at the moment of suspension is a success, and is not made again."""
    world = QueuedWorld()
    running(world)
    world.edit(suspend=True)
    world.reconcile()
    world.end_pods()
    world.sync_jobs()
    world.reconcile()
    assert (world.condition()["status"], world.condition()["reason"]) == ("True", "Published")
    assert len(world.attempts) == 1


def test_moving_to_another_queue() -> None:
    """While suspended the queue changes; so it does for a Job that was suspended outside of any queue."""
    world = QueuedWorld({"queueName": None})
    del world.resource["spec"]["queueName"]  # type: ignore[index]
    world.reconcile()
    world.make_pods()
    world.start_pods()
    world.reconcile()
    world.edit(suspend=True)
    world.reconcile()
    world.sync_jobs()
    world.sync_jobs()
    world.edit(queueName="team-b")
    for _ in range(3):
        world.reconcile()
        world.sync_jobs()
    assert not world.jobs
    world.edit(suspend=False)
    world.reconcile()
    (job,) = world.jobs.values()
    assert job["metadata"]["labels"][LABEL] == "team-b"


def test_a_queue_that_kueue_chose_is_respected() -> None:
    """Where Kueue puts every Job of a namespace into a default queue, the label that it set decides."""
    world = QueuedWorld({"queueName": None})
    del world.resource["spec"]["queueName"]  # type: ignore[index]
    world.reconcile()
    (job,) = world.jobs.values()
    job["metadata"]["labels"][LABEL] = "default"
    job["spec"]["suspend"] = True
    world.reconcile()
    assert world.condition()["reason"] == "Queued"
    world.settle()
    assert world.condition()["reason"] == "Published"
    assert world.trespasses == []


def test_a_job_without_a_queue_is_suspended_as_ever() -> None:
    """Its Job stays and is patched: nothing of the above is meant for it."""
    world = World()
    world.reconcile()
    world.make_pods()
    world.start_pods()
    world.edit(suspend=True)
    world.reconcile()
    (job,) = world.jobs.values()
    assert job["spec"]["suspend"] is True
    finish(world.pods[0], 75, termination_message("Preempted"))
    assert world.attempts[-1].get("reason") is None
