"""Pure: the pods of one attempt, seen as one. Where several train together, one knows why they ended; the rest follow.

A pod that was told to stop ends with 75 and takes the others along by itself; the Job replaces them, and the new ones
wait for each other (the trainer's supervisor/gang.py). Whatever else ends a pod ends the Job as a whole.
"""

from dataclasses import replace
from enum import IntEnum

from finetune_api.names import ClusterReason
from finetune_api.outcome import FollowUp, Reason
from finetune_operator import evidence
from finetune_operator.evidence import Ending, Resource

INDEX = "batch.kubernetes.io/job-completion-index"
_OVER = ("Succeeded", "Failed")
_VAGUE = (Reason.INTERNAL_ERROR, Reason.HANG, ClusterReason.UNKNOWN, ClusterReason.NODE_LOST)


def live(pod: Resource) -> bool:
    """Whether it holds resources."""
    return pod.get("status", {}).get("phase") not in _OVER


def size(job: Resource) -> int:
    """How many pods train together."""
    return int(job["spec"].get("completions") or 1) if job["spec"].get("completionMode") == "Indexed" else 1


def index(pod: Resource) -> int:
    """The number of its node."""
    metadata = pod["metadata"]
    for place in ("labels", "annotations"):
        text = str((metadata.get(place) or {}).get(INDEX, ""))
        if text.isascii() and text.isdigit():
            return int(text)
    return 0


def newest(pods: list[Resource]) -> list[Resource]:
    """Of each node the pod that counts: the live one, or the last; the first node's first. `pods` are oldest first."""
    found: dict[int, Resource] = {}
    for pod in pods:
        number = index(pod)
        if number not in found or live(pod) or not live(found[number]):
            found[number] = pod
    return [found[number] for number in sorted(found)]


def told(job: Resource, pods: list[Resource]) -> Ending | None:
    """What the pods prove of the attempt's end.

    Args:
        job: Tells whether there are several nodes.
        pods: The newest of each node, in order.
    """
    if size(job) == 1:
        return evidence.of_pod(pods[0]) if pods else None
    found = [(rank, index(pod), how) for pod in pods for rank, how in [_cause(pod)] if how]
    if not found:
        return None
    rank, number, how = min(found, key=lambda cause: cause[:2])
    return how if rank is _Rank.RESULT else replace(how, message=f"node {number}: {how.message}")


class _Rank(IntEnum):
    """The cause comes before what follows from it."""

    RESULT = 0
    OWN_REASON = 1
    DISRUPTION = 2
    VAGUE = 3
    """What a disruption elsewhere may have brought about."""
    STOPPED = 4
    """By the cluster, by the node that was, or by the Job controller because another pod had failed."""
    PEER_LOST = 5


def _cause(pod: Resource) -> tuple[_Rank, Ending | None]:
    how, disrupted = evidence.of_pod(pod), evidence.condition(pod, "DisruptionTarget")
    rank = _rank(how)
    if disrupted and rank > _Rank.DISRUPTION:
        said = disrupted.get("message") or disrupted.get("reason") or "the cluster does not say why"
        code = how.exit_code if how else None
        return _Rank.DISRUPTION, Ending(Reason.PREEMPTED, f"its pod was disrupted: {said}", FollowUp.RESUME, "", code)
    return rank, None if how and how.reason == Reason.TOOK_PART else how


def _rank(how: Ending | None) -> _Rank:
    if how is None or how.reason in (Reason.PEER_LOST, Reason.TOOK_PART):
        return _Rank.PEER_LOST
    if how.reason == Reason.PUBLISHED:
        return _Rank.RESULT
    if how.follow_up is FollowUp.RESUME:
        return _Rank.STOPPED
    vague = how.reason in _VAGUE or (how.reason == ClusterReason.EVICTED and how.follow_up is FollowUp.RETRY)
    return _Rank.VAGUE if vague else _Rank.OWN_REASON
