"""Pure: what a Job and its pod prove about how an attempt ended, or why it does not start. No evidence, no claim."""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finetune_api import names
from finetune_api.names import ClusterReason
from finetune_api.outcome import ExitCode, FollowUp, Outcome, Reason

Resource = dict[str, Any]
WEBHOOK_FAILED = "failed calling webhook"
"""The API server's words when an admission webhook, without which nothing may be created, gives no answer."""
_KILLED = (137, 143)
_IMAGE_TROUBLE = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_POD_NAME_END = re.compile(r"(?<=[a-z0-9])-[a-z0-9]{5}\"(?= is forbidden)")
_VOLUME_TROUBLE = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_NODE_TROUBLE = (*_VOLUME_TROUBLE, "FailedCreatePodSandBox", "NetworkNotReady")
_SANDBOX = re.compile(r"\b[0-9a-f]{64}\b")
_JOB_SAYS_EXIT_CODE = re.compile(r"failed with exit code (\d+)")


@dataclass(frozen=True)
class Ending:
    """How an attempt ended."""

    reason: str
    message: str
    follow_up: FollowUp
    hint: str = ""
    exit_code: int | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Trouble:
    """Why an attempt cannot run yet; it goes on by itself once a person has removed the cause."""

    reason: str
    message: str


def condition(resource: Resource, kind: str) -> Resource | None:
    """The condition of that type if it is true."""
    for found in resource.get("status", {}).get("conditions") or []:
        if found.get("type") == kind and found.get("status") == "True":
            return dict(found)
    return None


def trainer_state(pod: Resource) -> Resource:
    """The trainer container's state: {waiting|running|terminated: {...}}, or nothing."""
    for container in pod.get("status", {}).get("containerStatuses") or []:
        if container.get("name") == names.TRAINER_CONTAINER:
            return dict(container.get("state") or {})
    return {}


def ending(job: Resource, told: Ending | None) -> Ending | None:
    """How the attempt ended; None while its Job is not over. `told` is what its pods prove."""
    failed, complete = condition(job, "Failed"), condition(job, "Complete")
    if failed and failed.get("reason") == "DeadlineExceeded":
        seconds = job["spec"].get("activeDeadlineSeconds")
        return Ending(
            ClusterReason.DEADLINE_EXCEEDED,
            f"the attempt ran longer than its Job's activeDeadlineSeconds ({seconds})",
            FollowUp.FAIL,
            "raise it in a new FineTuneJob; checkpoints of this one stay in storage",
        )
    if not failed and not complete:
        return None
    if told:
        return of_stage(told, job)
    said = str((failed or {}).get("message", ""))
    code = _JOB_SAYS_EXIT_CODE.search(said)
    if code:
        return _of_exit_code(int(code[1]), f"its pod is gone; the Job says: {said}")
    return _unknown(f"the Job is over and its pod is gone; the Job says: {said or 'nothing'}")


def of_stage(told: Ending, job: Resource) -> Ending:
    """What its pods prove, where it is an end of the Job's stage."""
    if _belongs(told, job):
        return told
    said = f"the trainer exited with {told.exit_code} and says {told.reason}, which is no end of its stage"
    return _unknown(said, told.exit_code)


def _belongs(how: Ending, job: Resource) -> bool:
    """Only `prepare` ends with Prepared, and only `train` with Published; to take part is no end of anything."""
    ends = {
        Reason.PREPARED: names.Stage.PREPARE,
        Reason.ALREADY_PUBLISHED: names.Stage.PREPARE,
        Reason.PUBLISHED: names.Stage.TRAIN,
        Reason.TOOK_PART: None,
    }
    stage = (job["metadata"].get("labels") or {}).get(names.LABEL_STAGE)
    return how.outcome is None or ends.get(how.outcome.reason, stage) == stage


def of_pod(pod: Resource) -> Ending | None:
    """What one pod proves of its own end; None while it has none."""
    status = pod.get("status", {})
    spoken = str(status.get("message") or "")
    if status.get("reason") == "Evicted":
        return _evicted(spoken)
    if status.get("reason") == "NodeLost":
        return Ending(ClusterReason.NODE_LOST, spoken or "the node was lost", FollowUp.RETRY)
    ended = trainer_state(pod).get("terminated")
    if ended:
        return _of_container(pod, ended)
    if status.get("phase") == "Failed":
        return _unknown(f"the pod failed before its container ran: {status.get('reason', '')} {spoken}".strip())
    return None


def _evicted(spoken: str) -> Ending:
    if "exceeds the" in spoken:  # the kubelet's words for a volume or container over its own limit
        hint = "raise spec.resources.workStorage in a new FineTuneJob"
        return Ending(ClusterReason.EVICTED, spoken, FollowUp.FAIL, hint)
    return Ending(ClusterReason.EVICTED, spoken or "the kubelet evicted the pod", FollowUp.RETRY)


def _of_container(pod: Resource, ended: Resource) -> Ending:
    code = int(ended.get("exitCode", -1))
    text = str(ended.get("message") or "")
    outcome = _outcome(text)
    if outcome and outcome.reason.exit_code == code and _proves(outcome):
        return Ending(outcome.reason, outcome.message, outcome.reason.follow_up, outcome.hint, code, outcome)
    if ended.get("reason") == "OOMKilled":  # some runtimes say so of any process of the container
        return _out_of_memory(pod, code)
    if code in _KILLED and pod["metadata"].get("deletionTimestamp"):
        said = f"the trainer did not stop within its grace period and was killed (exit code {code})"
        return Ending(Reason.PREEMPTED, said, FollowUp.RESUME, exit_code=code)
    if outcome:
        return _of_exit_code(code, f"its termination message says {outcome.reason}, which does not go with that code")
    return _of_exit_code(code, _seen(ended, text))


def _proves(outcome: Outcome) -> bool:
    """A success has something to show."""
    if outcome.reason is Reason.PREPARED:
        return outcome.dataset is not None
    return outcome.reason not in (Reason.PUBLISHED, Reason.ALREADY_PUBLISHED) or outcome.artifact is not None


def _seen(ended: Resource, text: str) -> str:
    """What is there instead of an outcome; a text that is not ours may come from the container runtime."""
    cause = ended.get("reason") or "no reason"
    if cause in ("Completed", "Error"):
        return "it left no readable termination message; see the pod's log"
    return f"the container runtime says {cause}: {text[:1000] or 'nothing more'}"


def _outcome(text: str) -> Outcome | None:
    try:
        return Outcome.from_termination_message(text)
    except ValidationError:
        return None


def _out_of_memory(pod: Resource, code: int) -> Ending:
    (container, *_) = pod["spec"]["containers"]
    limit = container.get("resources", {}).get("limits", {}).get("memory", "unknown")
    return Ending(
        Reason.OUT_OF_MEMORY,
        f"the kernel killed the trainer at its memory limit of {limit}",
        FollowUp.FAIL,
        f"ask for more than {limit} in spec.resources.memory, or lower training.microBatchSize or training.maxLength",
        exit_code=code,
    )


def _of_exit_code(code: int, seen: str) -> Ending:
    """The code alone says what may follow, never why it happened."""
    if code == 0:
        return _unknown(f"the trainer exited with 0 but proved no result: {seen}", 0)
    follow_up = next((r.follow_up for r in Reason if r.exit_code == code and code != ExitCode.OUT_OF_MEMORY), None)
    if follow_up is None or follow_up is FollowUp.SHRINK:  # to shrink takes a reason
        follow_up = FollowUp.RETRY
    message = f"the trainer exited with {code}; {seen}"
    return Ending(ClusterReason.UNKNOWN, message, follow_up, exit_code=code if code >= 0 else None)


def _unknown(seen: str, code: int | None = None) -> Ending:
    return Ending(ClusterReason.UNKNOWN, seen, FollowUp.RETRY, exit_code=code)


def trouble(pod: Resource | None, events: list[Resource]) -> Trouble | None:
    """Why the attempt's container does not start, if something says so.

    Args:
        pod: The attempt's newest pod.
        events: Events, newest last: about the pod, or while there is none, FailedCreate about its Job.
    """
    if pod is None:
        return _refused(str(events[-1].get("message", ""))) if events else None
    waiting = trainer_state(pod).get("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in _IMAGE_TROUBLE:
        image = pod["spec"]["containers"][0].get("image", "")
        return Trouble(ClusterReason.IMAGE_PULL_FAILED, f"image {image}: {message or reason}")
    if reason == "CreateContainerConfigError" and "secret" in message.lower():
        return Trouble(ClusterReason.MISSING_SECRET, message)
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return Trouble(ClusterReason.UNKNOWN, f"{reason}: {message}")
    for found in pod.get("status", {}).get("conditions") or []:
        if found.get("type") == "PodScheduled" and found.get("reason") == "Unschedulable":
            return Trouble(ClusterReason.UNSCHEDULABLE, str(found.get("message", "")))
    return _node_says(events)


def _node_says(events: list[Resource]) -> Trouble | None:
    """Volumes and the pod's sandbox are told nowhere else. A normal Event after a warning: it has gone on since.

    But for SandboxChanged, which the kubelet says before each new try.
    """
    said = [event for event in events if event.get("type") == "Normal" or event.get("reason") in _NODE_TROUBLE]
    newest = next((event for event in reversed(said) if event.get("reason") != "SandboxChanged"), {})
    if (reason := newest.get("reason")) not in _NODE_TROUBLE:
        return None
    message = f"{reason}: {_SANDBOX.sub('...', str(newest.get('message', '')))}"  # each try makes a sandbox of its own
    return Trouble(ClusterReason.VOLUME_MOUNT_FAILED if reason in _VOLUME_TROUBLE else ClusterReason.UNKNOWN, message)


def _refused(message: str) -> Trouble:
    """Each try has a pod name of its own; without its end the message stays the same, and so does the status."""
    message = _POD_NAME_END.sub('"', message)
    lowered = message.lower()
    if "exceeded quota" in lowered:
        return Trouble(ClusterReason.QUOTA_EXCEEDED, message)
    if WEBHOOK_FAILED in lowered:
        return Trouble(ClusterReason.WEBHOOK_UNAVAILABLE, message)
    if "serviceaccount" in lowered and "not found" in lowered:
        return Trouble(ClusterReason.MISSING_SERVICE_ACCOUNT, message)
    return Trouble(ClusterReason.UNKNOWN, message)
