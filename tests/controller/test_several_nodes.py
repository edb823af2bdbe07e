"""Several nodes are one attempt: one Job and one Service, one story, and the reason of the pod that knows it."""

import json
import re
from typing import Any

import pytest

from finetune_api.progress import Progress
from finetune_api.run import RunFile
from finetune_operator.deadlines import Heard
from finetune_operator.desired import service_manifest
from finetune_operator.observe import State
from finetune_operator.plan import plan
from tests.controller.test_desired import Stage, manifest
from tests.controller.world import SETTINGS, SPEC, World, exit_code, finish, index_of, stamp, termination_message

TWO = {"resources": {"gpus": 0, "nodes": 2}}
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}


def gang(**spec: Any) -> World:
    """A world in which two pods train."""
    world = World({**TWO, **spec})
    world.reconcile()
    world.make_pods()
    world.start_pods()
    world.reconcile()
    assert [index_of(pod) for pod in world.pods] == [0, 1]
    return world


def test_an_indexed_job_whose_first_pod_can_be_found() -> None:
    """A pod per node; the name that the run file gives is what Kubernetes makes of hostname and subdomain."""
    name = "7" * 52  # a Service's name must begin with a letter
    job = manifest({**SPEC, "training": {"batchSize": 64}, "resources": {"gpus": 0, "nodes": 64}}, name=name)
    spec, pod = job["spec"], job["spec"]["template"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 64, 64)
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    service = service_manifest(job)
    assert service is not None
    run = RunFile.from_json(pod["metadata"]["annotations"]["finetune.dev/run"])
    assert (run.nodes, run.processes, run.world) == (64, 1, 64)
    hostname = (
        f"{job['metadata']['name']}-0"  # https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode
    )
    assert run.coordinator == f"{hostname}.{service['metadata']['name']}"
    assert len(f"{job['metadata']['name']}-63") <= 63, "the API server refuses a Job whose pods' hostnames are too long"
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", service["metadata"]["name"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["metadata"]["ownerReferences"] == job["metadata"]["ownerReferences"]
    assert service["metadata"]["labels"] == job["metadata"]["labels"]
    assert {port["port"] for port in service["spec"]["ports"]} == {run.coordinator_port, run.coordinator_port + 1}


def test_every_attempt_has_names_of_its_own() -> None:
    """A pod of the last attempt that lingers is not found by the next one."""
    made = [manifest({**SPEC, **TWO}, attempt=number) for number in (1, 2)]
    services = [service_manifest(job) for job in made]
    assert services[0] is not None
    assert services[1] is not None
    assert services[0]["metadata"]["name"] != services[1]["metadata"]["name"]
    assert services[0]["spec"]["selector"] != services[1]["spec"]["selector"]


def test_preparing_and_one_node_stay_as_they_were() -> None:
    """One pod, no index, no Service."""
    for job in (manifest({**SPEC, **TWO}, stage=Stage.PREPARE), manifest(SPEC)):
        assert not {"completionMode", "successPolicy"} & job["spec"].keys()
        assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (1, 1)
        assert service_manifest(job) is None
        run = json.loads(job["spec"]["template"]["metadata"]["annotations"]["finetune.dev/run"])
        assert run["nodes"] == 1
        assert "coordinator" not in run


def test_the_service_is_there_before_the_job() -> None:
    """Dying in between makes neither twice; deleting the FineTuneJob leaves nothing of both."""
    world = World({**TWO, "ttlSecondsAfterFinished": 10})
    world.reconcile(crash_after=1)
    assert (len(world.services), len(world.jobs)) == (1, 0)
    world.settle()
    assert (len(world.services), len(world.jobs)) == (1, 1)
    assert world.writes.index("service") < world.writes.index("create")
    world.pass_time(20)
    world.reconcile()
    assert world.resource is None
    assert not world.services
    assert not world.jobs


Ends = list[tuple[int, str, dict[str, Any]]]


@pytest.mark.parametrize(
    ("ends", "reason", "counted"),
    [
        ([(82, "PeerLost", {}), (81, "Diverged", {})], "Diverged", 1),
        ([(75, "Preempted", {}), (81, "Diverged", {})], "Diverged", 1),
        ([(82, "PeerLost", {}), (70, "InternalError", {})], "InternalError", 1),
        ([(75, "Preempted", {}), (70, "InternalError", {})], "InternalError", 1),  # or it would try for ever, uncounted
        ([(70, "InternalError", {}), (75, "Preempted", {"conditions": [DISRUPTED]})], "Preempted", 0),
        ([(82, "PeerLost", {}), (137, "", {"conditions": [DISRUPTED]})], "Preempted", 0),
        ([(82, "PeerLost", {}), (75, "Preempted", {})], "Preempted", 0),
        ([(82, "PeerLost", {}), (137, "", {})], "Unknown", 1),
        ([(82, "PeerLost", {}), (0, "TookPart", {})], "PeerLost", 1),
        ([(0, "TookPart", {}), (82, "PeerLost", {})], "PeerLost", 1),
        ([(81, "Diverged", {}), (75, "Preempted", {"conditions": [DISRUPTED]})], "Diverged", 1),
        ([(0, "Published", {}), (82, "PeerLost", {})], "Published", 0),
        ([(0, "TookPart", {}), (0, "TookPart", {})], "Unknown", 1),  # nobody has the result
    ],
)
def test_the_pod_that_knows_tells(ends: Ends, reason: str, counted: int) -> None:
    """A lost peer and a stop are consequences, whatever the order; a disruption is never counted."""
    world = gang()
    for pod, (code, said, more) in zip(world.pods, ends, strict=True):
        finish(pod, code, termination_message(said) if said else "")
        pod["status"] |= more
    (job,) = world.jobs.values()
    world._conclude(job, "Complete" if all(code == 0 for code, *_ in ends) else "Failed", "PodFailurePolicy", "")
    world.reconcile()
    assert (world.attempts[0]["reason"], world.status["failures"]) == (reason, counted)
    assert reason == "Published" or world.attempts[0]["message"].startswith("node ") or reason == "Unknown"


def test_out_of_memory_on_one_node_is_the_runs_reason() -> None:
    """The kernel killed the second node's trainer; the first one only saw it vanish."""
    world = gang()
    finish(world.pods[0], 82, termination_message("PeerLost"))
    finish(world.pods[1], 137, reason="OOMKilled")
    world.sync_jobs()
    world.reconcile()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "OutOfMemory")
    assert world.condition()["message"].startswith("node 1: ")


def test_a_stop_of_the_gang_is_one_interruption() -> None:
    """Both pods end with 75 and are replaced by the same Job: same attempt, one preemption, no failure."""
    world = gang()
    for pod in world.pods:
        finish(pod, 75, termination_message("Preempted"))
    world.make_pods()
    world.reconcile()
    assert [index_of(pod) for pod in world.pods] == [0, 1, 0, 1]
    world.settle()
    assert world.condition()["reason"] == "Published"
    assert (len(world.created), world.status["preemptions"], world.status["failures"]) == (1, 1, 0)


def test_the_next_attempt_waits_for_the_last_pod_of_the_gang() -> None:
    """The Job has failed, one node still runs: no second gang on the same output."""
    world = gang()
    finish(world.pods[0], 82, termination_message("PeerLost"))
    world.sync_jobs()
    for _ in range(3):
        world.reconcile()
        world.pass_time(1000)
    assert len(world.created) == 1
    finish(world.pods[1], 137)
    world.reconcile()
    world.pass_time(1000)
    world.reconcile()
    assert len(world.created) == 2
    assert len(world.services) == 2


def test_the_story_is_that_of_the_slowest_pod() -> None:
    """While one pod waits the attempt waits, with that pod's trouble; it runs when all do, and only node 0 is asked."""
    world = World(TWO)
    world.reconcile()
    (attempt,) = world.observed().attempts
    assert (attempt.state, attempt.missing_pods, attempt.waiting_pods) == (State.PENDING, 2, 2)
    world.make_pods()
    first, second = world.pods
    world.pods = [first]
    world.start_pods()
    world.pods = [first, second]
    said = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    second["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}
    ]
    (attempt,) = world.observed().attempts
    assert (attempt.state, attempt.pod_ip, attempt.waiting_pods, attempt.missing_pods) == (State.PENDING, None, 1, 0)
    world.reconcile()
    assert (world.condition()["reason"], world.condition()["message"]) == ("Unschedulable", said)
    del second["status"]["conditions"]
    world.reconcile()
    assert "waits for 1 of 2 pods" in world.condition()["message"]
    world.start_pods()
    second["status"]["podIP"] = "10.0.0.8"
    (attempt,) = world.observed().attempts
    assert (attempt.state, attempt.pod_ip) == (State.RUNNING, "10.0.0.7")
    progress = Progress(phase="Training", step=1, total_steps=4)
    status = plan(world.resource or {}, world.observed(), Heard(progress), world.now, SETTINGS).status
    assert status is not None
    assert "in 2 pods, the first on node node-1" in status.conditions[0].message


def test_a_pod_that_waits_for_too_long_ends_the_attempt() -> None:
    """`pendingSeconds` counts while any pod waits: the others hold their GPUs for nothing."""
    world = World({**TWO, "deadlines": {"pendingSeconds": 60}})
    world.reconcile()
    world.make_pods()
    first, second = world.pods
    world.pods = [first]
    world.start_pods()
    world.pods = [first, second]
    world.reconcile()
    world.pass_time(61)
    world.reconcile()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "PendingDeadlineExceeded")
    world.reconcile()
    (job,) = world.jobs.values()
    assert job["spec"]["suspend"] is True


def test_pods_that_replace_others_wait_anew() -> None:
    """A gang that was interrupted after a long time is not late at once."""
    world = gang(deadlines={"pendingSeconds": 60})
    world.pass_time(1000)
    for pod in world.pods:
        finish(pod, 75, termination_message("Preempted"))
    world.make_pods()
    world.reconcile()
    assert world.condition()["reason"] == "Pending"
    world.settle()
    assert world.condition()["reason"] == "Published"


def test_suspend_is_a_level_on_all_pods() -> None:
    """Suspending takes every pod, resuming brings every one back in the same Job; nothing is counted."""
    world = gang()
    world.edit(suspend=True)
    world.reconcile()
    for pod in world.pods:
        pod["metadata"]["deletionTimestamp"] = stamp(world.now)
        finish(pod, 75, termination_message("Preempted"))
    world.sync_jobs()
    world.reconcile()
    assert (world.pods, world.condition()["reason"]) == ([], "Suspended")
    world.edit(suspend=False)
    world.settle()
    assert world.condition()["reason"] == "Published"
    assert (len(world.created), world.status["preemptions"], world.status["failures"]) == (1, 0, 0)
    assert {exit_code(pod) for pod in world.pods} == {0}


def test_memory_runs_out_on_all_nodes_alike() -> None:
    """Half the micro-batch on each of two nodes: the batch stays, and stays a multiple of what all of them take."""
    world = World({**TWO, "training": {"batchSize": 30, "microBatchSize": 15}}, ("OutOfGPUMemory",) * 2)
    world.settle()
    assert world.micro_batches == [15, 5, 1]
    assert world.condition()["reason"] == "Published"
