"""Pure: from one FineTuneJob and what is there to what must be done and what must be said.

The order is JobSet's: deleted, finished, broken, then the story from the newest attempt on. Any pass may be the first
after a crash, so nothing here relies on an earlier one having finished.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from finetune_api.load import describe, parse_job
from finetune_api.names import ActiveReason, ClusterReason, Condition, Stage
from finetune_api.outcome import FollowUp
from finetune_api.progress import Progress
from finetune_api.status import AttemptStatus, ProgressStatus, Status
from finetune_api.v1alpha1 import FineTuneJob, Resources
from finetune_operator import accounting, deadlines, desired, ledger, queueing, report
from finetune_operator.deadlines import Heard
from finetune_operator.evidence import Ending, Trouble
from finetune_operator.observe import Attempt, Observed, State, parse_time
from finetune_operator.report import Note, Verdict
from finetune_operator.settings import Settings

_RUNNING = {
    ActiveReason.STARTING: "starts",
    ActiveReason.PREPARING: "reads, checks and tokenizes the dataset",
    ActiveReason.LOADING: "loads model and data",
    ActiveReason.TRAINING: "trains",
    ActiveReason.EVALUATING: "measures the loss on held-out rows",
    ActiveReason.PUBLISHING: "verifies and publishes the adapter",
}
_SLOW_START_SECONDS = 30.0  # a node that takes longer to prepare a pod may have said why
_NO_POD_YET_SECONDS = 5.0
_STILL_WAITS_SECONDS = 60.0


@dataclass(frozen=True)
class CreateJob:
    """Start an attempt."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class CreateService:
    """Give the pods of several nodes names, before they are there to look for each other."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class SetSuspend:
    """The one thing that is ever patched on a Job, and never on one that waits in a queue: that is Kueue's."""

    job_name: str
    suspend: bool


@dataclass(frozen=True)
class DeleteJob:
    """Stop a Job that shall not run again; its pods end as when it is suspended, and it stays until they have."""

    job_name: str


@dataclass(frozen=True)
class DeleteSelf:
    """The FineTuneJob's time to live is over."""


Action = CreateService | CreateJob | SetSuspend | DeleteJob | DeleteSelf


@dataclass(frozen=True)
class Plan:
    """What one pass has to do: the actions in order, then the status, then the Events."""

    actions: tuple[Action, ...] = ()
    status: Status | None = None
    """None: leave it as it is."""
    notes: tuple[Note, ...] = ()
    requeue_after: float | None = None
    """Seconds until time alone changes the plan."""


@dataclass(frozen=True)
class _Step:
    verdict: Verdict
    actions: tuple[Action, ...] = ()
    requeue_after: float | None = None


@dataclass(frozen=True)
class _Scene:
    """Everything a decision may look at."""

    job: FineTuneJob
    namespace: str
    uid: str
    status: Status
    observed: Observed
    heard: Heard
    now: datetime
    settings: Settings
    refused: Trouble | None


def plan(
    resource: dict[str, Any],
    observed: Observed,
    heard: Heard,
    now: datetime,
    settings: Settings,
    refused: Trouble | None = None,
) -> Plan:
    """Decide what follows.

    Args:
        resource: The FineTuneJob as the API server gives it.
        observed: Its attempts.
        heard: What the running trainer said last, if anything.
        now: The time.
        settings: The operator's.
        refused: Why what an earlier plan of this pass wanted was not let through.
    """
    metadata = resource["metadata"]
    if metadata.get("deletionTimestamp"):
        return Plan()
    old = report.read_status(resource.get("status"))
    status, generation = old.model_copy(deep=True), int(metadata["generation"])
    if report.finished(old):
        status.observed_generation = generation
        accounting.keep(status, observed, _gpus(resource), now)
        return _after_the_end(resource, status, observed, now)
    try:
        job = parse_job(resource)
    except ValidationError as error:
        step = _Step(_invalid(error))
    else:
        status.model_name = report.clip(job.spec.model.uri.rstrip("/").rsplit("/", 1)[-1], 256)
        uid, namespace = metadata["uid"], metadata["namespace"]
        step = _story(_Scene(job, namespace, uid, status, observed, heard, now, settings, refused))
        if refused and step.actions:
            step = _Step(Verdict(refused.reason, refused.message))
    report.pronounce(status, step.verdict, generation, now)
    withdrawn = tuple(DeleteJob(name) for name in queueing.leftovers(old, observed))
    return Plan((*withdrawn, *step.actions), status, report.notes(old, status), step.requeue_after)


def _after_the_end(resource: dict[str, Any], status: Status, observed: Observed, now: datetime) -> Plan:
    """Free what still runs (a job can end while its pod waits), then delete the object when its time is over."""
    stop: tuple[Action, ...] = tuple(
        DeleteJob(attempt.job_name) if attempt.queue else SetSuspend(attempt.job_name, suspend=True)
        for attempt in observed.attempts
        if attempt.state is not State.ENDED and not (attempt.deleted if attempt.queue else attempt.suspended)
    )
    ttl, end = resource["spec"].get("ttlSecondsAfterFinished"), parse_time(status.completion_time)
    if not isinstance(ttl, int) or end is None:
        return Plan(stop, status)
    left = (end + timedelta(seconds=ttl) - now).total_seconds()
    if left <= 0:
        return Plan((*stop, DeleteSelf()))
    return Plan(stop, status, requeue_after=left)


def _gpus(resource: dict[str, Any]) -> int:
    """Of each pod, by a spec that the API server let through."""
    return int(resource["spec"].get("resources", {}).get("gpus", Resources().gpus))


def _invalid(error: ValidationError) -> Verdict:
    found = "; ".join(f"{field} {message}" for field, message in describe(error))
    return Verdict(ClusterReason.INVALID_SPEC, found, reconciling=False, stalled=True)


def _story(scene: _Scene) -> _Step:
    follow_up = ledger.record(scene.status, scene.observed, scene.now)
    accounting.keep(scene.status, scene.observed, scene.job.spec.resources.gpus, scene.now)
    newest = scene.status.attempts[-1] if scene.status.attempts else None
    if newest is None:
        return _start(scene, Stage.PREPARE, 1)
    if follow_up is None:
        return _ongoing(scene, newest)
    report.rest_progress(scene.status)
    return _follow_up(scene, newest, follow_up)


def _follow_up(scene: _Scene, newest: AttemptStatus, follow_up: FollowUp) -> _Step:
    """The attempt is over."""
    if follow_up is FollowUp.SUCCEED:
        return _Step(Verdict(newest.reason or "", newest.message or "", "True", reconciling=False))
    if follow_up is FollowUp.PROCEED:
        return _start(scene, Stage.TRAIN, 1)
    if follow_up is FollowUp.SHRINK:
        return _shrink(scene, newest)
    spent = follow_up is FollowUp.RETRY and scene.status.failures > scene.job.spec.retries
    if follow_up is FollowUp.FAIL or spent:
        return _Step(_failure(newest, scene))
    return _again(scene, newest, follow_up)


def _failure(newest: AttemptStatus, scene: _Scene) -> Verdict:
    message = ". ".join(filter(None, (newest.message, newest.hint)))
    if newest.number > 1:
        message += f" (after {newest.number} attempts; spec.retries is {scene.job.spec.retries})"
    return Verdict(newest.reason or "", message, "False", reconciling=False, stalled=True)


def _shrink(scene: _Scene, newest: AttemptStatus) -> _Step:
    """Half the micro-batch and twice the accumulation: less memory, the same result; the run goes on where it was."""
    training = scene.job.spec.training
    now = newest.micro_batch_size or training.micro_batch_size
    share = training.batch_size // scene.job.spec.resources.processes
    smaller = next((size for size in range(now // 2, 0, -1) if share % size == 0), None)
    if smaller is None or newest.stage != Stage.TRAIN:
        return _Step(_failure(newest, scene))
    return _again(scene, newest, FollowUp.SHRINK, smaller)


def _again(scene: _Scene, newest: AttemptStatus, follow_up: FollowUp, micro_batch_size: int | None = None) -> _Step:
    """The next attempt, after a pause that doubles with every failure; an interrupted run goes on after the first."""
    settings, ended = scene.settings, parse_time(newest.completion_time) or scene.now
    doublings = scene.status.failures - 1 if follow_up is FollowUp.RETRY else 0
    pause = min(settings.retry_seconds * 2 ** min(max(doublings, 0), 20), settings.retry_max_seconds)
    pause = 0 if follow_up is FollowUp.CONTINUE else pause
    start = ended + timedelta(seconds=pause)
    number = newest.number + 1
    left = (start - scene.now).total_seconds()
    why = f"attempt {newest.number} ended with {newest.reason}: {(newest.message or '').rstrip('.')}"
    if left > 0 and not scene.job.spec.suspend:
        message = f"{why}; attempt {number} starts at {report.rfc3339(start)}"
        return _Step(Verdict(ActiveReason.RETRYING, message), requeue_after=left)
    return _start(scene, Stage(newest.stage), number, micro_batch_size or newest.micro_batch_size)


def _start(scene: _Scene, stage: Stage, number: int, micro_batch_size: int | None = None) -> _Step:
    job, observed, revision = scene.job, scene.observed, None
    if stage is Stage.TRAIN:
        revision = scene.status.dataset.model_revision if scene.status.dataset else None
        chosen = scene.status.memory.micro_batch_size if scene.status.memory else None
        micro_batch_size = micro_batch_size or chosen or job.spec.training.micro_batch_size
    if job.spec.suspend:
        return _Step(_suspended(f"spec.suspend is true; {stage.value} attempt {number} starts when it is false"))
    if observed.stray_pods or not all(attempt.over for attempt in observed.attempts):
        message = f"{stage.value} attempt {number} waits for the pods of the last one to end{_why(scene.status)}"
        return _Step(Verdict(ActiveReason.RETRYING, message))
    if scene.refused:
        broken = scene.refused.reason == ClusterReason.INVALID_SPEC
        verdict = Verdict(scene.refused.reason, scene.refused.message, reconciling=not broken, stalled=broken)
        return _Step(verdict)
    manifest = desired.job_manifest(
        job,
        namespace=scene.namespace,
        uid=scene.uid,
        stage=stage,
        attempt=number,
        settings=scene.settings,
        micro_batch_size=micro_batch_size,
        model_revision=revision,
    )
    service = desired.service_manifest(manifest)
    name = manifest["metadata"]["name"]
    ledger.add(scene.status, stage, number, name, scene.now, micro_batch_size)
    verdict = Verdict(ActiveReason.PENDING, f"Job {name} waits for its pod")
    names = (CreateService(service),) if service else ()
    return _Step(verdict, (*names, CreateJob(manifest)), requeue_after=_NO_POD_YET_SECONDS)


def _why(status: Status) -> str:
    """Pods that do not end may need a person, who reads here what to do."""
    last = status.attempts[-1] if status.attempts else None
    told = ". ".join(filter(None, (last.message, last.hint))) if last and last.reason == ClusterReason.NODE_LOST else ""
    return f"; {told}" if told else ""


def _suspended(message: str) -> Verdict:
    return Verdict(ActiveReason.SUSPENDED, message, reconciling=False, suspended=True)


def _ongoing(scene: _Scene, newest: AttemptStatus) -> _Step:
    facts = next((a for a in scene.observed.attempts if a.order == ledger.order(newest)), None)
    if scene.heard.progress and facts and facts.state is State.RUNNING:
        _listen(scene.status, newest, scene.heard.progress, facts)
    else:
        report.rest_progress(scene.status)
    if facts is None:
        return _Step(_as_before(scene, "its Job was deleted; its pods are still ending"))
    if queueing.must_leave(scene.job.spec, facts):
        queueing.withdraw(scene.status, newest, facts, scene.now)
        return _Step(_suspended(newest.message or ""), requeue_after=0)  # the next pass deletes its Job
    if scene.job.spec.suspend:
        return _suspend(facts)
    if facts.suspended and facts.queue:
        return _Step(queueing.waiting(newest, facts))
    if facts.suspended:
        return _resume(scene, facts)
    return _on_time(scene, newest, facts)


def _on_time(scene: _Scene, newest: AttemptStatus, facts: Attempt) -> _Step:
    """It goes on, unless a deadline is over."""
    clocks = deadlines.clocks(scene.job.spec, scene.status, newest, facts, scene.observed, scene.heard, scene.now)
    if how := deadlines.expired(clocks):
        return _late(scene, newest, how)
    times = [deadlines.next_look(clocks)]
    if (facts.state is State.PENDING and facts.missing_pods) or facts.state is State.STARTING:
        times.append(_events_may_say(facts, scene.now))
    return _Step(_now(scene, facts), requeue_after=min((time for time in times if time is not None), default=None))


def _events_may_say(facts: Attempt, now: datetime) -> float:
    """When the Job controller may have said why it makes no pod, or a node why it starts none: no watch brings it.

    Soon at first. What has waited for long, for a quota as a rule, is asked about less.
    """
    first = _SLOW_START_SECONDS if facts.state is State.STARTING else _NO_POD_YET_SECONDS
    return min(max(first, _waited(facts, now) / 10), _STILL_WAITS_SECONDS)


def untold(facts: Attempt, now: datetime) -> tuple[str, str] | None:
    """Uid and reason of the Events that alone say why the attempt waits, if any do."""
    if facts.state is State.PENDING and facts.missing_pods:
        return facts.uid, queueing.event(facts)
    slow = facts.state is State.STARTING and _waited(facts, now) >= _SLOW_START_SECONDS
    return (facts.unstarted, "") if slow and not facts.trouble else None  # of several pods, one


def _waited(facts: Attempt, now: datetime) -> float:
    """Seconds for a pod, or since a node has it for its start."""
    since = (facts.placed if facts.state is State.STARTING else None) or facts.pending_since or facts.created
    return (now - since).total_seconds()


def _listen(status: Status, newest: AttemptStatus, progress: Progress, facts: Attempt) -> None:
    shown = status.progress or ProgressStatus()
    told = parse_time(shown.updated_time)
    same = told is not None and told >= (facts.running_since or facts.created) and progress.step >= shown.step
    accounting.take_session(status, newest, progress.resumed_from, same)
    report.show_progress(status, progress)


def _suspend(facts: Attempt) -> _Step:
    message = f"Job {facts.job_name} is suspended; it goes on when spec.suspend is false"
    if facts.live_pods:
        message = f"Job {facts.job_name} is stopping: its trainer saves a checkpoint"
    leave = facts.suspended or facts.state is State.ENDED
    actions = () if leave else (SetSuspend(facts.job_name, suspend=True),)
    return _Step(_suspended(message), actions)


def _resume(scene: _Scene, facts: Attempt) -> _Step:
    message = f"Job {facts.job_name} resumes"
    suspended = report.find(scene.status, Condition.SUSPENDED)
    if suspended is None or suspended.status != "True":
        message = f"Job {facts.job_name} was suspended by somebody else, and resumes; is it Kueue, set spec.queueName"
    action = SetSuspend(facts.job_name, suspend=False)
    return _Step(Verdict(ActiveReason.PENDING, message), (action,), requeue_after=scene.settings.refused_seconds)


def _late(scene: _Scene, newest: AttemptStatus, how: Ending) -> _Step:
    """A deadline is over. It is written down first; the next pass stops the Job, so that a crash cannot revive it."""
    ledger.end(scene.status, newest, how, scene.now)
    return replace(_follow_up(scene, newest, how.follow_up), requeue_after=0)


def _now(scene: _Scene, facts: Attempt) -> Verdict:
    if facts.trouble:
        return Verdict(facts.trouble.reason, facts.trouble.message)
    if facts.state is State.RUNNING:
        return _running(scene, facts)
    if facts.state is State.STARTING:
        return Verdict(ActiveReason.STARTING, f"a node prepares {_waiting(facts, 'the pod')} of Job {facts.job_name}")
    if facts.state is State.PENDING:
        return Verdict(ActiveReason.PENDING, f"Job {facts.job_name} waits for {_waiting(facts, 'its pod')}")
    return _as_before(scene, f"the pod of Job {facts.job_name} ended; its Job follows")


def _running(scene: _Scene, facts: Attempt) -> Verdict:
    reason = scene.heard.progress.phase if scene.heard.progress else _last_reason(scene.status)
    known = next((phase for phase in _RUNNING if phase == reason), ActiveReason.STARTING)
    where = f"on node {facts.node}" if facts.nodes == 1 else f"in {facts.nodes} pods, the first on node {facts.node}"
    return Verdict(known, f"{facts.stage.value} attempt {facts.number} {_RUNNING[known]} {where}", reconciling=False)


def _waiting(facts: Attempt, pod: str) -> str:
    return pod if facts.nodes == 1 else f"{facts.waiting_pods} of {facts.nodes} pods"


def _last_reason(status: Status) -> str:
    found = report.find(status, Condition.SUCCEEDED)
    return found.reason if found else ""


def _as_before(scene: _Scene, message: str) -> Verdict:
    """Between two states of the cluster the last word stands."""
    return Verdict(_last_reason(scene.status) or ActiveReason.PENDING, message, reconciling=False)
