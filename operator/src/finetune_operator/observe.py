"""Pure: from the Jobs and Pods of one FineTuneJob to facts about its attempts."""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from finetune_api import names
from finetune_api.names import Stage
from finetune_api.outcome import ExitCode
from finetune_operator import evidence, gang, spans
from finetune_operator.evidence import Ending, Resource, Trouble
from finetune_operator.spans import Span, parse_time

__all__ = ["Attempt", "Observed", "State", "controller_uid", "observe", "parse_time"]

STAGES = list(Stage)
"""In their order."""


class State(StrEnum):
    """Where an attempt is."""

    PENDING = "Pending"
    """No container has started."""
    STARTING = "Starting"
    """A node has it; image and volumes are on their way."""
    RUNNING = "Running"
    STOPPING = "Stopping"
    """The container is over, the Job not yet."""
    ENDED = "Ended"


_WAITING = (State.PENDING, State.STARTING)
_SLOWEST = [State.PENDING, State.STARTING, State.STOPPING, State.RUNNING]
"""Several pods are where the first of these is true of one."""


_AT_ONCE = timedelta(seconds=3)  # the Job controller has said by then that a new Job is suspended, as a rule


@dataclass(frozen=True)
class Attempt:
    """Facts about one attempt, that is one Job."""

    stage: Stage
    number: int
    job_name: str
    state: State
    created: datetime
    uid: str = ""
    """Of the Job."""
    suspended: bool = False
    """What the Job's spec says."""
    queue: str | None = None
    """Kueue's queue that it is in: its spec is Kueue's then."""
    stopped_because: str = ""
    """Why Kueue took its quota back, while it waits for it."""
    suspended_anew: bool = False
    """Whether it is suspended and may have been resumed before, by what the Job says."""
    deleted: bool = False
    """Its Job is on its way out, and goes when its pods have ended."""
    nodes: int = 1
    """Pods that train together."""
    live_pods: int = 0
    """Pods that still hold resources."""
    missing_pods: int = 0
    """Pods that the Job controller has not made yet."""
    waiting_pods: int = 0
    """Pods whose container has not started, with those that are missing."""
    unstarted: str = ""
    """Uid of a pod that a node has and whose container has not started: the first one."""
    placed: datetime | None = None
    """When a node took that pod, as far as it says so."""
    ending: Ending | None = None
    ended: datetime | None = None
    trouble: Trouble | None = None
    node: str | None = None
    """Where its newest container ran or runs; of several nodes, the first one's."""
    pod_ip: str | None = None
    """Set while the trainer runs; of several nodes, the first one's: it tells the progress."""
    interruptions: int = 0
    """Pods of one node that ended without ending the attempt, as far as they are still there to be seen."""
    pending_since: datetime | None = None
    """Since when it waits for its container; None when it does not wait."""
    spans: tuple[Span, ...] = ()
    """The times of all its pods that can be seen."""
    stopped: datetime | None = None
    """By then its pods had ended, as far as the Job says so."""
    running_since: datetime | None = None
    """When the last of its containers started, while all run."""
    told: Ending | None = None
    """What its trainers prove of its end, once all have ended, whether or not the Job has."""
    exited: datetime | None = None
    """When the last trainer ended, once all have."""
    silent_since: datetime | None = None
    """Since when a pod that counts as running is on a node that is not heard of."""
    silent_node: str = ""
    """That node."""
    micro_batch_size: int | None = None
    """What its run file says; None in a stage that has no batches."""

    @property
    def order(self) -> tuple[int, int]:
        """Stages come one after the other, and in each its attempts."""
        return STAGES.index(self.stage), self.number

    @property
    def over(self) -> bool:
        """Nothing of it runs any more."""
        return self.state is State.ENDED and not self.live_pods


@dataclass(frozen=True)
class Observed:
    """All attempts that have a Job, oldest first, and pods that outlive theirs."""

    attempts: tuple[Attempt, ...] = ()
    stray_pods: int = 0
    """Pods still holding resources whose Job is gone."""


def observe(uid: str, jobs: list[Resource], pods: list[Resource], events: dict[str, list[Resource]]) -> Observed:
    """Facts about the FineTuneJob with that uid.

    Args:
        uid: Of the FineTuneJob. Jobs of other owners are left out, whatever their labels say.
        jobs: Jobs that carry its label.
        pods: Pods that carry its label.
        events: uid -> Events, oldest first: of a Job, those that say why there is no pod (it could not be created, or
            Kueue has stopped the Job); of a pod, all that a node says while it prepares it.
    """
    owned = [job for job in jobs if controller_uid(job) == uid and _number(job) is not None and _stage(job)]
    by_job: dict[str | None, list[Resource]] = {}
    for pod in sorted(pods, key=_age):
        by_job.setdefault(controller_uid(pod), []).append(pod)
    attempts = [_attempt(job, by_job.pop(_uid(job), []), events) for job in owned]
    strays = sum(gang.live(pod) for left in by_job.values() for pod in left)
    return Observed(tuple(sorted(attempts, key=lambda attempt: attempt.order)), strays)


def controller_uid(resource: Resource) -> str | None:
    """Uid of the object's controller."""
    for owner in resource["metadata"].get("ownerReferences") or []:
        if owner.get("controller"):
            return str(owner["uid"])
    return None


def _uid(resource: Resource) -> str:
    return str(resource["metadata"].get("uid", ""))


def _age(pod: Resource) -> tuple[str, str]:
    return str(pod["metadata"].get("creationTimestamp", "")), str(pod["metadata"].get("name", ""))


def _stage(job: Resource) -> Stage | None:
    text = (job["metadata"].get("labels") or {}).get(names.LABEL_STAGE)
    return next((stage for stage in Stage if stage.value == text), None)


def _micro_batch_size(job: Resource) -> int | None:
    """From the run file: a status that was lost, or never written, must not make the next attempt as large again."""
    if _stage(job) is not Stage.TRAIN:
        return None
    try:
        run = json.loads(job["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_RUN_FILE])
        return int(run["training"]["microBatchSize"])
    except (KeyError, TypeError, ValueError):
        return None


def _number(job: Resource) -> int | None:
    text = str((job["metadata"].get("labels") or {}).get(names.LABEL_ATTEMPT, ""))
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def _attempt(job: Resource, pods: list[Resource], events: dict[str, list[Resource]]) -> Attempt:
    refusals = events.get(_uid(job), [])
    metadata, current, nodes = job["metadata"], gang.newest(pods), gang.size(job)
    first = current[0] if current and gang.index(current[0]) == 0 else None
    told = gang.told(job, current)
    how = evidence.ending(job, told)
    missing = nodes - len(current)
    times = [spans.of_pod(pod) for pod in pods]
    current_times = [span for pod in current if (span := spans.of_pod(pod)) and not missing]
    silent = [(since, pod) for pod in current if (since := spans.silent_since(pod))]
    state = State.ENDED if how else min((_state(pod) for pod in [*current, *[None] * missing]), key=_SLOWEST.index)
    waiting = [pod for pod in current if _state(pod) in _WAITING]
    unstarted = next((pod for pod in waiting if _state(pod) is State.STARTING), None)
    waits = state in _WAITING
    suspended, queue = bool(job["spec"].get("suspend")), (metadata.get("labels") or {}).get(names.LABEL_QUEUE)
    queued = suspended and queue is not None
    return Attempt(
        stage=_stage(job) or Stage.TRAIN,
        number=_number(job) or 0,
        job_name=metadata["name"],
        state=state,
        created=parse_time(metadata["creationTimestamp"]) or datetime.min,
        uid=_uid(job),
        suspended=suspended,
        queue=queue,
        stopped_because=str(refusals[-1].get("message", "")) if queued and refusals else "",
        suspended_anew=_suspended_anew(job),
        deleted=bool(metadata.get("deletionTimestamp")),
        nodes=nodes,
        live_pods=sum(gang.live(pod) for pod in pods),
        missing_pods=missing,
        waiting_pods=len(waiting) + missing,
        unstarted=_uid(unstarted) if unstarted else "",
        placed=_placed(unstarted) if unstarted else None,
        ending=how,
        ended=_ended(job) if how else None,
        trouble=_trouble(waiting, missing, events, refusals) if waits and not queued else None,
        node=_node(first),
        pod_ip=first["status"].get("podIP") if first and state is State.RUNNING else None,
        interruptions=_interruptions(job, pods, current if how else []),
        pending_since=_pending_since(job, waiting) if waits else None,
        spans=tuple(span for span in times if span),
        stopped=_stopped(job),
        running_since=max((s.ran for s in current_times if s.ran), default=None) if state is State.RUNNING else None,
        told=evidence.of_stage(told, job) if told else None,
        exited=_exited(current_times, nodes),
        silent_since=min((since for since, _ in silent), default=None),
        silent_node=str(silent[0][1]["spec"].get("nodeName", "")) if silent else "",
        micro_batch_size=_micro_batch_size(job),
    )


def _trouble(
    waiting: list[Resource], missing: int, events: dict[str, list[Resource]], refusals: list[Resource]
) -> Trouble | None:
    """The first that is found: each must be removed before the attempt runs."""
    told = [evidence.trouble(pod, events.get(_uid(pod), [])) for pod in waiting]
    return next(filter(None, [*told, evidence.trouble(None, refusals) if missing else None]), None)


def _interruptions(job: Resource, pods: list[Resource], last: list[Resource]) -> int:
    """Pods that were interrupted and yet did not end the attempt.

    Those of a Job that is suspended or deleted were stopped on purpose.

    An interruption takes a pod of every node; those that the cluster has deleted are seen no more.
    """
    if job["spec"].get("suspend") or job["metadata"].get("deletionTimestamp"):
        return 0
    counted = Counter(gang.index(pod) for pod in pods if pod not in last and _interrupted(pod))
    return max(counted.values(), default=0)


def _interrupted(pod: Resource) -> bool:
    code = evidence.trainer_state(pod).get("terminated", {}).get("exitCode")
    return not gang.live(pod) and (
        code == ExitCode.PREEMPTED or evidence.condition(pod, "DisruptionTarget") is not None
    )


def _state(pod: Resource | None) -> State:
    if pod is None:
        return State.PENDING
    container = evidence.trainer_state(pod)
    if not gang.live(pod) or "terminated" in container:
        return State.STOPPING
    if "running" in container:
        return State.RUNNING
    return State.STARTING if pod.get("spec", {}).get("nodeName") else State.PENDING


def _exited(times: list[Span], nodes: int) -> datetime | None:
    """When the last trainer of all nodes ended."""
    exits = [span.exited for span in times if span.exited]
    return max(exits) if len(exits) == nodes else None


def _stopped(job: Resource) -> datetime | None:
    """A Job is over when its pods have ended; one that is suspended gives them their grace period."""
    if ended := _ended(job):
        return ended
    suspended = parse_time((evidence.condition(job, "Suspended") or {}).get("lastTransitionTime"))
    grace = job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
    return suspended + timedelta(seconds=grace) if suspended else None


def _placed(pod: Resource) -> datetime | None:
    return parse_time((evidence.condition(pod, "PodScheduled") or {}).get("lastTransitionTime"))


def _suspended_anew(job: Resource) -> bool:
    """A Job that is suspended from the beginning says so from its beginning."""
    since = parse_time((evidence.condition(job, "Suspended") or {}).get("lastTransitionTime"))
    created = parse_time(job["metadata"]["creationTimestamp"])
    return since is not None and created is not None and since - created > _AT_ONCE


def _ended(job: Resource) -> datetime | None:
    found = evidence.condition(job, "Failed") or evidence.condition(job, "Complete") or {}
    return parse_time(found.get("lastTransitionTime"))


def _node(pod: Resource | None) -> str | None:
    """Named once the container has run: a node that never got so far says nothing about the attempt."""
    if pod is None or not {"running", "terminated"} & evidence.trainer_state(pod).keys():
        return None
    name = pod.get("spec", {}).get("nodeName")
    return str(name) if name else None


def _pending_since(job: Resource, waiting: list[Resource]) -> datetime | None:
    """The Job's start moves when it resumes, and a pod that replaces another waits anew."""
    if job["spec"].get("suspend"):
        return None
    status: dict[str, Any] = job.get("status", {})
    times = [job["metadata"]["creationTimestamp"], status.get("startTime")]
    times += [pod["metadata"].get("creationTimestamp") for pod in waiting]
    return max(filter(None, (parse_time(time) for time in times)))
