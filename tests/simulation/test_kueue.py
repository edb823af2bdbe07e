"""Beside Kueue itself: its webhooks, its controller, its quotas. The operator does nothing that is Kueue's to do."""

import itertools
import json
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from finetune_api.names import Stage
from finetune_api.outcome import Outcome, Reason
from localcluster.simulation import ControlPlane, pod_stage
from tests.simulation.conftest import a_plane
from tests.simulation.jobs import NAMESPACE, PUBLISHED, ended, get, job, lives, verdict, wait_for
from tests.simulation.kueue import ON_NODE, Kueue, priority, queue
from tests.simulation.laws import created
from tests.simulation.operators import Operator

pytestmark = pytest.mark.simulation
MAY = "tests/may"  # a label of pods: they end when and how a test says
REFUSED_SECONDS = 2
QUARREL_SECONDS = 6.0
TRAINS = "Starting"  # what a played trainer shows, which says nothing of its progress
TRAIN = {names.LABEL_STAGE: Stage.TRAIN.value}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Pods of `prepare` end by themselves, those of `train` when they are told."""
    rest = [stage for stage in lives() if stage["metadata"]["name"] != f"{Stage.TRAIN.value}-ends"]
    broken = Outcome(reason=Reason.INTERNAL_ERROR, message="it broke")
    for how, outcome in (("succeed", PUBLISHED), ("break", broken)):
        rest.append(pod_stage(f"train-{how}s", TRAIN | {MAY: how}, names.TRAINER_CONTAINER, "Running", ended(outcome)))
    with a_plane(tmp_path_factory.mktemp("kueue") / "p", rest) as plane:
        yield plane


@pytest.fixture(scope="module")
def kueue(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kueue]:
    """Kueue, with two priorities."""
    with Kueue(plane, tmp_path_factory.mktemp("kueue")) as kueue:
        plane.apply(priority("low", 1), priority("high", 10))
        yield kueue


@pytest.fixture
def operator(plane: ControlPlane, kueue: Kueue, tmp_path: Path) -> Iterator[Operator]:
    """One that tries again soon, and has the name of the one before: the Lease is still its own."""
    del kueue  # it is only to be there
    settings = {"pod_name": "one", "retry_seconds": "1", "refused_seconds": str(REFUSED_SECONDS)}
    with Operator(plane, tmp_path / "operator.log", **settings) as running:
        running.wait_until_ready()
        yield running


def say(plane: ControlPlane, name: str) -> str:
    """The message of the job's Succeeded condition."""
    found = get(plane, names.PLURAL, name).get("status", {}).get("conditions", [])
    return str(next((each["message"] for each in found if each["type"] == "Succeeded"), ""))


def wait_until(plane: ControlPlane, name: str, reason: str, *, timeout: float = 120) -> None:
    """Wait until that is the reason of the job's Succeeded condition; TRAINS: of a pod of `train`."""
    wait_for(f"{name} to be {reason}", lambda: verdict(plane, name)[1] == reason, timeout=timeout)
    if reason == TRAINS:
        wait_for(f"{name} to train", lambda: pods(plane, name) and verdict(plane, name)[1] == TRAINS)


def pods(plane: ControlPlane, name: str) -> list[dict[str, Any]]:
    """The pods of a job that train."""
    labels = f"{names.LABEL_JOB_NAME}={name},{names.LABEL_STAGE}={Stage.TRAIN.value}"
    found = json.loads(plane.kubectl("-n", NAMESPACE, "get", "pods", "-l", labels, "-ojson"))["items"]
    return [pod for pod in found if pod["status"]["phase"] == "Running"]


def let(plane: ControlPlane, name: str, how: str = "succeed") -> None:
    """Let its trainer end; of several nodes the first, by whose word the Job goes."""
    first, *_ = sorted(pod["metadata"]["name"] for pod in pods(plane, name))
    plane.kubectl("-n", NAMESPACE, "label", f"pod/{first}", f"{MAY}={how}")


def edit(plane: ControlPlane, which: str, **spec: Any) -> None:
    """Change some fields of the spec of an object, which is kind/name."""
    plane.kubectl("-n", NAMESPACE, "patch", which, "--type=merge", "-p", json.dumps({"spec": spec}))


def jobs_of(plane: ControlPlane, name: str) -> list[dict[str, Any]]:
    """Its Jobs, in the order of their creation."""
    selector = f"{names.LABEL_JOB_NAME}={name}"
    found = json.loads(plane.kubectl("-n", NAMESPACE, "get", "jobs", "-l", selector, "-ojson"))["items"]
    return sorted(found, key=lambda each: str(each["metadata"]["creationTimestamp"]))


def workload_of(plane: ControlPlane, name: str) -> str:
    """The Workload that Kueue made of its newest Job, found by what the job's own message says one should type."""
    command = shlex.split(say(plane, name).partition("kubectl ")[2].partition(" tells why")[0])

    def look() -> list[dict[str, Any]]:
        return list(json.loads(plane.kubectl("-n", NAMESPACE, *command, "-ojson"))["items"])

    (found,) = wait_for("Kueue to make a Workload", look)
    (owner,) = found["metadata"]["ownerReferences"]
    assert owner["name"] == get(plane, names.PLURAL, name)["status"]["jobName"]
    return str(found["metadata"]["name"])


def attempts(plane: ControlPlane, name: str) -> list[tuple[str, int, str]]:
    """Stage, number and reason of each."""
    return [(a["stage"], a["number"], a["reason"]) for a in get(plane, names.PLURAL, name)["status"]["attempts"]]


def ends_well(plane: ControlPlane, name: str, told: list[tuple[str, int, str]]) -> None:
    """Let it end, and hold what is true of every job that Kueue has had in its hands.

    Each attempt had one Job, only what broke is a failure, and the operator created and deleted, but patched no Job.
    """
    let(plane, name)
    wait_for("the verdict", lambda: verdict(plane, name) == ("True", "Published"))
    assert attempts(plane, name) == told
    assert get(plane, names.PLURAL, name)["status"]["failures"] == sum(reason == "InternalError" for *_, reason in told)
    made = {key: times for key, times in created(plane, NAMESPACE).items() if key[0] == name}
    assert made == {(name, stage, str(number)): 1 for stage, number, _ in told}
    assert set(done(plane, name)) - {"delete"} == {"create"}


def done(plane: ControlPlane, name: str) -> list[str]:
    """What the operator has done to the Jobs of a job, but for looking at them."""
    return [
        entry["verb"]
        for entry in plane.audit()
        if entry.get("objectRef", {}).get("resource") == "jobs"
        and entry["objectRef"].get("name", "").startswith(f"{name}-")
        and entry["userAgent"].startswith(names.MANAGED_BY)
        and entry["verb"] not in ("get", "list", "watch")
    ]


@pytest.mark.usefixtures("operator")
def test_a_quota_of_one_gpu_is_kept(plane: ControlPlane) -> None:
    """Three jobs, one GPU: one trains at a time, where the flavor says; the others tell where they wait, and why."""
    plane.apply(*queue("one", gpus=1))
    waiting = ["first", "second", "third"]
    plane.apply(*(job(name, queueName="one") for name in waiting))
    while waiting:
        wait_for("one to train", lambda: any(pods(plane, name) for name in waiting))
        (chosen,) = (name for name in waiting if pods(plane, name))
        wait_until(plane, chosen, TRAINS)
        assert pods(plane, chosen)[0]["spec"]["nodeSelector"].items() >= ON_NODE.items()
        waiting.remove(chosen)
        for name in waiting:
            wait_until(plane, name, "Queued")
            wait_for("its prepare to be over", lambda name=name: len(jobs_of(plane, name)) == 2)
            wait_for("the queue's name", lambda name=name: "waits in queue one for quota" in say(plane, name))
            assert workload_of(plane, name)
        ends_well(plane, chosen, [("prepare", 1, "Prepared"), ("train", 1, "Published")])
    spans = sorted(
        (each["status"]["startTime"], each["status"]["completionTime"])
        for name in ("first", "second", "third")
        for each in jobs_of(plane, name)
        if each["metadata"]["labels"][names.LABEL_STAGE] == Stage.TRAIN.value
    )
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def urgent(name: str) -> dict[str, Any]:
    """Somebody else's Job that goes first; nobody plays its pod, so that it holds its quota until it is deleted."""
    container = {"name": "any", "image": "any", "resources": {"limits": {"nvidia.com/gpu": 1}, "requests": {"cpu": 1}}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {names.LABEL_QUEUE: name, names.LABEL_QUEUE_PRIORITY: "high"},
        },
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }


@pytest.mark.parametrize("killed", [False, True])
def test_preempted_and_admitted_again(plane: ControlPlane, operator: Operator, killed: bool) -> None:
    """Kueue takes the quota for somebody more important: no pod is left, its words are told, the same attempt goes on.

    With the operator killed at five moments of it, the story is the same.
    """
    name = f"preempted-{killed}".lower()

    def crash() -> None:
        if killed:
            operator.signal(signal.SIGKILL)
            operator.wait()
            operator.start()
            operator.wait_until_ready()

    plane.apply(*queue(name, gpus=1))
    plane.apply(job(name, queueName=name, workloadPriorityClassName="low"))
    wait_until(plane, name, TRAINS)
    wait_for("its node", lambda: get(plane, names.PLURAL, name)["status"]["attempts"][-1].get("nodeName"))
    before = jobs_of(plane, name)[-1]["spec"]["template"]
    crash()
    plane.apply(urgent(name))
    crash()
    wait_for("no pod", lambda: not pods(plane, name))
    crash()
    wait_until(plane, name, "Queued")
    wait_for("Kueue's words", lambda: "Preempted to accommodate a workload" in say(plane, name))
    stopped = jobs_of(plane, name)[-1]["spec"]
    assert stopped["suspend"] is True
    assert ON_NODE.items() <= before["spec"]["nodeSelector"].items(), "the flavor's, as long as it is admitted"
    assert "nodeSelector" not in stopped["template"]["spec"]
    crash()
    plane.kubectl("-n", NAMESPACE, "delete", f"job/{name}", "--wait=false")
    crash()
    wait_until(plane, name, TRAINS)
    ends_well(plane, name, [("prepare", 1, "Prepared"), ("train", 1, "Published")])


@pytest.mark.usefixtures("operator")
def test_who_is_suspended_leaves_the_queue_to_others(plane: ControlPlane) -> None:
    """The quota is free for the next at once; who resumes waits for it again, and trains as the next attempt."""
    plane.apply(*queue("polite", gpus=1))
    plane.apply(job("away", queueName="polite"))
    wait_until(plane, "away", TRAINS)
    plane.apply(job("next", queueName="polite"))
    wait_for("its prepare to be over", lambda: len(jobs_of(plane, "next")) == 2)
    wait_until(plane, "next", "Queued")
    edit(plane, "ftj/away", suspend=True)
    wait_until(plane, "next", TRAINS)
    wait_until(plane, "away", "Suspended")
    wait_for("no pod", lambda: not pods(plane, "away"))
    edit(plane, "ftj/away", suspend=False)
    wait_until(plane, "away", "Queued")
    ends_well(plane, "next", [("prepare", 1, "Prepared"), ("train", 1, "Published")])
    wait_until(plane, "away", TRAINS)
    ends_well(plane, "away", [("prepare", 1, "Prepared"), ("train", 1, "Suspended"), ("train", 2, "Published")])


@pytest.mark.usefixtures("operator")
def test_moved_while_suspended(plane: ControlPlane) -> None:
    """From a queue that has nothing to one that has: another Job, the old one's Workload is gone with it."""
    plane.apply(*queue("poor", gpus=0), *queue("rich", gpus=1))
    plane.apply(job("moved", queueName="poor"))
    wait_for("its prepare to be over", lambda: len(jobs_of(plane, "moved")) == 2)
    wait_until(plane, "moved", "Queued")
    edit(plane, "ftj/moved", suspend=True)
    wait_until(plane, "moved", "Suspended")
    edit(plane, "ftj/moved", queueName="rich")
    edit(plane, "ftj/moved", suspend=False)
    wait_until(plane, "moved", TRAINS)
    assert [each["metadata"]["labels"][names.LABEL_QUEUE] for each in jobs_of(plane, "moved")] == ["poor", "rich"]
    ends_well(plane, "moved", [("prepare", 1, "Prepared"), ("train", 1, "Suspended"), ("train", 2, "Published")])


@pytest.mark.usefixtures("operator")
def test_a_queue_that_comes_later(plane: ControlPlane) -> None:
    """Nobody has made it yet: the job waits, and goes on without an edit when somebody does."""
    plane.apply(job("early", queueName="later"))
    wait_until(plane, "early", "Queued")
    plane.apply(*queue("later", gpus=1))
    wait_until(plane, "early", TRAINS)
    ends_well(plane, "early", [("prepare", 1, "Prepared"), ("train", 1, "Published")])


@pytest.mark.usefixtures("operator")
def test_drained_and_deactivated_by_an_administrator(plane: ControlPlane) -> None:
    """A queue that is drained, a Workload that is switched off: either way it stops, waits, and goes on when it may."""
    plane.apply(*queue("drained", gpus=1))
    plane.apply(job("patient", queueName="drained"))
    wait_until(plane, "patient", TRAINS)
    edit(plane, "clusterqueue/drained", stopPolicy="HoldAndDrain")
    wait_for("no pod", lambda: not pods(plane, "patient"))
    wait_until(plane, "patient", "Queued")
    edit(plane, "clusterqueue/drained", stopPolicy="None")
    wait_until(plane, "patient", TRAINS)
    uid = jobs_of(plane, "patient")[-1]["metadata"]["uid"]
    workload = plane.kubectl("-n", NAMESPACE, "get", "workloads", "-lkueue.x-k8s.io/job-uid=" + uid, "-oname").strip()
    for active in (False, True):
        edit(plane, workload, active=active)
        wait_until(plane, "patient", TRAINS if active else "Queued")
    ends_well(plane, "patient", [("prepare", 1, "Prepared"), ("train", 1, "Published")])


@pytest.mark.usefixtures("operator")
def test_a_retry_queues_again(plane: ControlPlane) -> None:
    """The Job of an attempt that failed gives its quota back, and the next one asks for it."""
    plane.apply(*queue("again", gpus=1))
    plane.apply(job("again", queueName="again"))
    wait_until(plane, "again", TRAINS)
    let(plane, "again", "break")
    wait_for("the next attempt", lambda: len(jobs_of(plane, "again")) == 3 and pods(plane, "again"))
    ends_well(plane, "again", [("prepare", 1, "Prepared"), ("train", 1, "InternalError"), ("train", 2, "Published")])


@pytest.mark.usefixtures("operator")
def test_several_nodes_are_admitted_together(plane: ControlPlane) -> None:
    """Two nodes where there is quota for one: none starts. With quota for both, both do."""
    plane.apply(*queue("gang", gpus=1))
    plane.apply(job("gang", queueName="gang", resources={"gpus": 1, "nodes": 2}))
    wait_for("its prepare to be over", lambda: len(jobs_of(plane, "gang")) == 2)
    wait_until(plane, "gang", "Queued")
    status = wait_for("Kueue's answer", lambda: get(plane, "workload", workload_of(plane, "gang")).get("status"))
    (reserved,) = (each for each in status["conditions"] if each["type"] == "QuotaReserved")
    assert reserved["status"] == "False"
    assert not pods(plane, "gang")
    plane.apply(*queue("gang", gpus=2))
    wait_for("both pods", lambda: len(pods(plane, "gang")) == 2)
    ends_well(plane, "gang", [("prepare", 1, "Prepared"), ("train", 1, "Published")])


def active(plane: ControlPlane, name: str, namespace: str) -> bool:
    """Whether Kueue says that the LocalQueue is."""
    conditions = get(plane, "localqueue", name, namespace).get("status", {}).get("conditions", [])
    return any((found["type"], found["status"]) == ("Active", "True") for found in conditions)


@pytest.mark.usefixtures("operator")
def test_a_namespace_with_a_queue_for_all(plane: ControlPlane) -> None:
    """A LocalQueue by the name of `default` takes in what names none; the operator leaves such a Job to Kueue, too."""
    *_, local = queue("everybody", gpus=1)
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "defaulted"}})
    plane.apply(*queue("everybody", gpus=0), {**local, "metadata": {"name": "default", "namespace": "defaulted"}})
    wait_for("Kueue to know the queue", lambda: active(plane, "default", "defaulted"))
    resource = job("unnamed")
    plane.apply({**resource, "metadata": {"name": "unnamed", "namespace": "defaulted"}})

    def reason() -> str:
        found = get(plane, names.PLURAL, "unnamed", "defaulted").get("status", {}).get("conditions", [{"reason": ""}])
        return str(found[0]["reason"])

    def made() -> list[dict[str, Any]]:
        return list(get(plane, "jobs", namespace="defaulted")["items"])

    wait_for("its prepare to be over", lambda: len(made()) == 2)
    wait_for("it to wait", lambda: reason() == "Queued")
    assert all(each["metadata"]["labels"][names.LABEL_QUEUE] == "default" for each in made())
    plane.apply(*queue("everybody", gpus=1))
    wait_for("it to train", lambda: reason() == TRAINS)


def test_kueue_is_down(plane: ControlPlane, kueue: Kueue, operator: Operator) -> None:
    """Its webhook stands before every Job: who cannot begin or stop says so within 30 s, and does when it is back."""
    plane.apply(*queue("down", gpus=1))
    plane.apply(job("free"))
    wait_until(plane, "free", TRAINS)
    kueue.kill()
    try:
        plane.apply(job("down", queueName="down"))
        edit(plane, "ftj/free", suspend=True)
        for name, webhook in (("down", "mjob.kb.io"), ("free", "vjob.kb.io")):
            wait_until(plane, name, "WebhookUnavailable", timeout=30)
            assert webhook in say(plane, name)
        assert operator.answer("/healthz")[0] == 200
    finally:
        kueue.start()
    wait_until(plane, "free", "Suspended")
    wait_for("no pod", lambda: not pods(plane, "free"))
    wait_until(plane, "down", TRAINS)
    ends_well(plane, "down", [("prepare", 1, "Prepared"), ("train", 1, "Published")])


@pytest.mark.usefixtures("operator")
def test_kueue_manages_what_names_no_queue(plane: ControlPlane, kueue: Kueue) -> None:
    """Where it suspends each such Job, it is not fought: the job says what to do, and does well once that is done."""
    plane.apply(*queue("named", gpus=1))
    kueue.kill()
    kueue.start(manageJobsWithoutQueueName=True)
    try:
        plane.apply(job("nameless"))
        wait_for("the remedy", lambda: "set spec.queueName" in say(plane, "nameless"))
        end = time.monotonic() + QUARREL_SECONDS
        wait_for("a while", lambda: time.monotonic() > end)
        tries = sum(verb == "patch" for verb in done(plane, "nameless"))
        assert 1 <= tries <= 1 + 2 * QUARREL_SECONDS / REFUSED_SECONDS
        edit(plane, "ftj/nameless", suspend=True)
        wait_until(plane, "nameless", "Suspended")
        edit(plane, "ftj/nameless", queueName="named")
        edit(plane, "ftj/nameless", suspend=False)
        wait_until(plane, "nameless", TRAINS)
        let(plane, "nameless")
        wait_for("the verdict", lambda: verdict(plane, "nameless") == ("True", "Published"))
    finally:
        kueue.kill()
        kueue.start()
