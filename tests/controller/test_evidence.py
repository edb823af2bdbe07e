"""Every reason comes from evidence, and what follows is what the table of the design says."""

from typing import Any

import pytest

from tests.controller.world import World, finish, stamp, termination_message


def running(world: World) -> dict[str, Any]:
    """Bring the world to a running trainer; returns its pod."""
    world.reconcile()
    world.make_pods()
    world.start_pods()
    world.reconcile()
    (pod,) = [pod for pod in world.pods if pod["status"]["phase"] == "Running"]
    return pod


def waiting(world: World) -> dict[str, Any]:
    """Bring the world to a pod that waits; returns it."""
    world.reconcile()
    world.make_pods()
    return world.pods[-1]


def fail_job(world: World, reason: str = "PodFailurePolicy", message: str = "") -> None:
    """Let the Job controller give up on the only Job that is not over."""
    (job,) = [job for job in world.jobs.values() if "conditions" not in job["status"]]
    world._conclude(job, "Failed", reason, message)


@pytest.mark.parametrize(
    ("code", "message", "reason", "ends"),
    [
        (65, termination_message("EmptyDataset"), "EmptyDataset", True),
        (73, termination_message("BucketNotFound"), "BucketNotFound", True),
        (64, termination_message("UnsafeModel"), "UnsafeModel", True),
        (80, termination_message("OutOfGPUMemory"), "OutOfGPUMemory", True),  # the micro-batch is 1 already
        (80, "", "Unknown", False),  # to shrink takes a reason
        (82, termination_message("Hang"), "Hang", False),
        (69, termination_message("HubUnavailable"), "HubUnavailable", False),
        (85, termination_message("QualityGateFailed"), "QualityGateFailed", True),
        (65, "", "Unknown", True),  # the code says what follows, not why
        (70, "Traceback ...", "Unknown", False),
        (1, "", "Unknown", False),
        (137, "", "Unknown", False),  # killed, but nothing says that memory was the cause
        (70, termination_message("InvalidDataset"), "Unknown", False),  # the two contradict each other
        (0, "", "Unknown", False),  # no proof of an artifact
        (0, '{"reason": "Published", "message": "trust me"}', "Unknown", False),
        (0, termination_message("Prepared"), "Unknown", False),  # no end of this stage
        (0, termination_message("TookPart"), "Unknown", False),  # nor is to take part
    ],
)
def test_end_by_evidence(code: int, message: str, reason: str, ends: bool) -> None:
    """A termination message that fits its exit code is believed; else the reason is Unknown and says what was seen."""
    world = World()
    finish(running(world), code, message)
    if code:
        fail_job(world)
    else:
        world.sync_jobs()
    world.reconcile()
    (attempt,) = world.attempts
    assert (attempt["reason"], attempt["exitCode"]) == (reason, code)
    assert world.condition()["status"] == ("False" if ends else "Unknown")
    assert world.condition()["reason"] == (reason if ends else "Retrying")
    assert str(code) in attempt["message"] or reason != "Unknown"


def test_a_result_that_is_there_ends_the_job_in_prepare() -> None:
    """One Job that never held a GPU, and the job has succeeded, with what is in the bucket."""
    world = World(outcomes=("AlreadyPublished",), prepared=False)
    world.settle()
    assert world.stages == ["prepare"]
    assert (world.condition()["status"], world.condition()["reason"]) == ("True", "AlreadyPublished")
    assert world.condition("Prepared")["status"] == "True"
    assert world.status["artifact"]["files"] == 5
    assert {event["type"] for event in world.events.values()} == {"Normal"}


def test_only_prepare_may_say_that_it_is_there() -> None:
    """From a training pod it proves nothing."""
    world = World({"retries": 0}, outcomes=("AlreadyPublished",))
    world.settle()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "Unknown")


def test_out_of_memory_names_the_limit_and_the_remedy() -> None:
    """OOMKilled is final, and the message holds the limit that was too small and the field to raise."""
    world = World({"resources": {"gpus": 0, "memory": "3Gi"}})
    finish(running(world), 137, termination_message("InternalError"), reason="OOMKilled")
    fail_job(world)
    world.reconcile()
    verdict = world.condition()
    assert (verdict["status"], verdict["reason"]) == ("False", "OutOfMemory")
    assert "3Gi" in verdict["message"]
    assert "spec.resources.memory" in verdict["message"]


def test_deadline_of_a_job_is_final_whatever_the_trainer_says() -> None:
    """A Job's own DeadlineExceeded wins over the trainer's Preempted; we set none, an older operator did."""
    world = World({"deadlines": {"activeSeconds": 60}})
    finish(running(world), 75, termination_message("Preempted"))
    (job,) = world.jobs.values()
    assert "activeDeadlineSeconds" not in job["spec"]
    fail_job(world, "DeadlineExceeded")
    world.reconcile()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "DeadlineExceeded")


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        ("The node was low on resource: memory.", False),
        ('Usage of EmptyDir volume "work" exceeds the limit "1Gi".', True),
    ],
)
def test_evicted(words: str, ends: bool) -> None:
    """Node pressure may be over next time; a volume over its own limit will not be."""
    world = World()
    pod = running(world)
    finish(pod, 137, reason="Error")
    pod["status"] |= {"reason": "Evicted", "message": words}
    fail_job(world)
    world.reconcile()
    assert world.attempts[0]["reason"] == "Evicted"
    assert world.condition()["status"] == ("False" if ends else "Unknown")


def test_pod_gone_leaves_the_jobs_word() -> None:
    """Without a pod the Job's condition still holds the exit code; nothing more is claimed."""
    world = World()
    running(world)
    world.pods.clear()
    fail_job(world, message="Container trainer for pod research/bot-x failed with exit code 65 matching FailJob rule")
    world.reconcile()
    assert world.condition()["reason"] == "Unknown"
    assert world.condition()["status"] == "False"
    assert "exit code 65" in world.condition()["message"]


def test_killed_while_being_deleted_is_an_interruption() -> None:
    """A trainer that was told to stop and was too slow did not fail; it goes on, uncounted."""
    world = World()
    pod = running(world)
    pod["metadata"]["deletionTimestamp"] = stamp(world.now)
    finish(pod, 137)
    fail_job(world)
    world.reconcile()
    assert world.attempts[0]["reason"] == "Preempted"
    assert (world.status["failures"], world.status["preemptions"]) == (0, 1)
    world.settle()
    assert world.condition()["status"] == "True"


@pytest.mark.parametrize(
    ("state", "reason", "part"),
    [
        ({"reason": "ErrImagePull", "message": "not found"}, "ImagePullFailed", "trainer:test"),
        ({"reason": "ImagePullBackOff", "message": "Back-off"}, "ImagePullFailed", "Back-off"),
        ({"reason": "InvalidImageName", "message": "couldn't parse"}, "ImagePullFailed", "parse"),
        (
            {"reason": "CreateContainerConfigError", "message": 'secret "s3-credentials" not found'},
            "MissingSecret",
            "s3-credentials",
        ),
    ],
)
def test_trouble_is_shown_and_heals(state: dict[str, str], reason: str, part: str) -> None:
    """What keeps the container from starting is the reason of Succeeded=Unknown, until it is gone."""
    world = World()
    pod = waiting(world)
    pod["spec"]["nodeName"] = "node-1"
    pod["status"]["containerStatuses"] = [{"name": "trainer", "state": {"waiting": state}}]
    world.reconcile()
    assert (world.condition()["status"], world.condition()["reason"]) == ("Unknown", reason)
    assert part in world.condition()["message"]
    assert world.condition("Reconciling")["status"] == "True"
    world.settle()
    assert world.condition()["reason"] == "Published"


def test_unschedulable_speaks_with_the_schedulers_words() -> None:
    """The scheduler's message is passed on as it is."""
    world = World()
    said = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said}]
    waiting(world)["status"]["conditions"] = conditions
    world.reconcile()
    assert (world.condition()["reason"], world.condition()["message"]) == ("Unschedulable", said)


def test_a_node_has_its_half_minute_from_when_it_got_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that waited long for a node finds warnings there that pass, and is not asked about at once."""
    world = World()
    pod = waiting(world)
    asked: list[tuple[str, ...]] = []

    async def events_about(*about: str) -> list[dict[str, str]]:
        asked.append(about)
        return []

    monkeypatch.setattr(world, "events_about", events_about)
    world.pass_time(600)
    pod["spec"]["nodeName"] = "node-1"
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(world.now)}
    pod["status"]["conditions"] = [placed]
    assert world.reconcile() == 30
    assert asked == []
    world.pass_time(31)
    world.reconcile()
    assert len(asked) == 1


SANDBOX = "Failed to create pod sandbox: plugin failed to set up network for %s"


@pytest.mark.parametrize(
    ("kind", "event", "message", "reason"),
    [
        ("Warning", "FailedMount", 'MountVolume.SetUp failed for volume "data"', "VolumeMountFailed"),
        ("Warning", "FailedAttachVolume", "Multi-Attach error", "VolumeMountFailed"),
        ("Warning", "FailedCreatePodSandBox", SANDBOX % ("ab12" * 16), "Unknown"),
        ("Normal", "Pulling", "Pulling image", "Starting"),
        ("Warning", "FailedScheduling", "0/1 nodes are available", "VolumeMountFailed"),
        ("Warning", "DNSConfigForming", "Nameserver limits were exceeded", "VolumeMountFailed"),
        ("Normal", "SandboxChanged", "it will be killed and re-created", "VolumeMountFailed"),
    ],
)
def test_a_node_that_cannot_prepare_the_pod_says_so_in_events(
    kind: str, event: str, message: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is in the pod's status. What says nothing of a start, or only that it is tried anew, is no news."""
    world = World()
    pod = waiting(world)
    pod["spec"]["nodeName"] = "node-1"
    asked: list[tuple[str, ...]] = []
    told = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
    tries = iter(["ab12" * 16, "cd34" * 16])

    async def events_about(*about: str) -> list[dict[str, str]]:
        asked.append(about)
        older = {"type": "Warning", "reason": "FailedMount", "message": "it did not, at first"}
        return [older, {"type": kind, "reason": event, "message": message.replace("ab12" * 16, next(tries))}]

    monkeypatch.setattr(world, "events_about", events_about)
    assert world.reconcile() == 30, "no watch brings Events, so the operator must look by itself"
    assert (asked, world.condition()["reason"]) == ([], "Starting")
    world.pass_time(31)
    assert world.reconcile() == 30
    assert asked == [("research", pod["metadata"]["uid"], "")]
    assert (world.condition()["status"], world.condition()["reason"]) == ("Unknown", reason)
    assert ("did not, at first" in world.condition()["message"]) == (event not in told and reason != "Starting")
    before = list(world.writes)
    world.reconcile()
    assert world.writes == before, "another try with another sandbox is no news"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "bot-1f" is forbidden: error looking up service account ns/ghost: serviceaccount "ghost" not found',
         "MissingServiceAccount"),
        ('pods "bot-1f" is forbidden: exceeded quota: gpus, requested: ...', "QuotaExceeded"),
        ('Internal error occurred: failed calling webhook "mpod.kb.io": failed to call webhook', "WebhookUnavailable"),
    ],
)  # fmt: skip
def test_job_controllers_refusal(message: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that cannot be created has no status; the Job controller's Event is the evidence."""
    world = World()

    async def events_about(*_: str) -> list[dict[str, str]]:
        return [{"message": message.replace("bot-1f", f"bot-1f-{next(tries)}")}]

    tries = iter(["x7k2p", "bcdf9"])

    monkeypatch.setattr(world, "events_about", events_about)
    world.reconcile()
    assert world.reconcile() is not None, "no watch brings Events, so the operator must look again by itself"
    assert (world.condition()["reason"], world.condition()["message"]) == (reason, message)
    before = list(world.writes)
    world.reconcile()
    assert world.writes == before, "another try of the Job controller, with another pod name, is no news"
