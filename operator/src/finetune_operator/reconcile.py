"""The story of one pass: read, decide, act, write the status once, record Events."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from finetune_api.names import Condition
from finetune_api.outcome import Reason
from finetune_api.status import Status
from finetune_operator import metrics, report
from finetune_operator.cluster import Cluster, Key
from finetune_operator.deadlines import Heard, spoke_before
from finetune_operator.errors import ApiError, RefusedError
from finetune_operator.events import Recorder
from finetune_operator.evidence import Trouble
from finetune_operator.observe import Attempt, Observed, State, observe, parse_time
from finetune_operator.patience import Patience
from finetune_operator.plan import (
    Action,
    CreateJob,
    CreateService,
    DeleteJob,
    DeleteSelf,
    Plan,
    SetSuspend,
    plan,
    untold,
)
from finetune_operator.progress import Poller
from finetune_operator.report import Verdict
from finetune_operator.settings import Settings

_logger = logging.getLogger(__name__)
Resource = dict[str, Any]
_FRESH_SECONDS = 30.0
_ECHOES = 8  # writes that a watch may be behind


@dataclass(frozen=True)
class _Seen:
    """What a pass read, and has left there: the trainer runs, and there was nothing to do."""

    resource: Resource
    observed: Observed


class Reconciler:
    """Brings one FineTuneJob one step nearer to what its spec says."""

    def __init__(
        self,
        cluster: Cluster,
        poller: Poller,
        settings: Settings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster, self._poller, self._settings, self._clock = cluster, poller, settings, clock
        self._recorder = Recorder(cluster, settings.pod_name)
        self._states, self._patience = metrics.States(), Patience(settings)
        self._written: dict[Key, float] = {}
        self._failing: set[Key] = set()
        """Objects whose last pass broke off over what was read or written."""
        self._fresh: dict[Key, Resource] = {}
        self._seen: dict[Key, _Seen] = {}
        self._news: set[Key] = set()
        self._progress: set[Key] = set()
        self._echoes: dict[Key, deque[str]] = {}
        self._writing: dict[Key, asyncio.Event] = {}

    def met(self, resource: Resource) -> None:
        """A watch says that this FineTuneJob was created. Only for the leader: nobody else begins with it.

        A watch that was silent tells it late. What somebody may have begun with meanwhile gets a pass like any other.
        """
        metadata = resource["metadata"]
        key = (metadata["namespace"], metadata["name"])
        created = parse_time(metadata.get("creationTimestamp"))
        late = created is None or (self._clock() - created).total_seconds() > _FRESH_SECONDS
        if not late and key not in self._states:
            self._fresh[key] = resource

    def news(self, key: Key) -> None:
        """Something may have happened to the FineTuneJob or to what belongs to it: the next pass reads it all."""
        self._news.add(key)

    def progressed(self, key: Key) -> None:
        """Its trainer had something new to say. Unless there is other news, the next pass need not read anything."""
        self._progress.add(key)

    async def wrote(self, resource: Resource) -> bool:
        """Whether this version of the FineTuneJob is progress that was just written, so that nobody need look at it.

        The watch may bring it before the write is answered: then the answer is waited for, as it is by the next pass.
        """
        metadata = resource["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        if answered := self._writing.get(key):
            await answered.wait()
        return metadata.get("resourceVersion") in self._echoes.get(key, ())

    def known(self) -> set[Key]:
        """The FineTuneJobs that were there when they were last looked at."""
        return set(self._states)

    def rest(self, resource: Resource, jobs: list[Resource], pods: list[Resource]) -> float | None:
        """Seconds until a pass is due by what was listed: 0 is now, None is never while nothing happens."""
        metadata = resource["metadata"]
        observed = observe(metadata["uid"], jobs, pods, {})
        if metadata.get("deletionTimestamp") or any(_wants_a_look(attempt) for attempt in observed.attempts):
            return 0.0
        decided = plan(resource, observed, Heard(), self._clock(), self._settings)
        if decided.actions or decided.status is None or decided.requeue_after == 0:
            return 0.0
        if merge_patch(resource.get("status") or {}, decided.status.to_dict()):
            return 0.0
        self._states.put((metadata["namespace"], metadata["name"]), _reason(decided.status))
        return decided.requeue_after

    async def __call__(self, key: Key) -> float | None:
        """Do a pass; returns when to do the next one if nothing happens before."""
        with metrics.RECONCILE_SECONDS.time():
            try:
                again = await self._pass(key)
            except ApiError as error:
                if error.status != 409:
                    metrics.RECONCILES.labels("error").inc()
                    if error.status == 422:  # what this pass wants to write is refused, and will be the next time
                        await self._stall(key, error)
                    raise
                metrics.RECONCILES.labels("conflict").inc()
                return 0.2  # somebody changed the object since it was read: read it again
            except OSError:  # timeouts among them: the world's, not the object's
                metrics.RECONCILES.labels("error").inc()
                raise
            except Exception as error:
                metrics.RECONCILES.labels("error").inc()
                await self._stall(key, error)
                raise
            metrics.RECONCILES.labels("ok").inc()
            self._failing.discard(key)
            return again

    async def _pass(self, key: Key) -> float | None:
        if fresh := self._fresh.pop(key, None):
            begun = await self._begin(key, fresh)
            if begun is not None:
                return begun
        if (seen := self._unchanged(key)) and (decided := self._retold(key, seen)):
            return await self._report(key, seen, decided)
        resource = await self._cluster.job(key)
        if resource is None or resource["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return None
        observed = await self._observe(resource)
        decided = await self._carry_out(key, resource, observed)
        if decided is None:
            return None
        return await self._report(key, _Seen(resource, observed), decided)

    def _unchanged(self, key: Key) -> _Seen | None:
        """What the last pass left, where the trainer's progress is all that there is to tell. It counts once."""
        seen, brief = self._seen.pop(key, None), key in self._progress and key not in self._news
        self._progress.discard(key)
        self._news.discard(key)
        return seen if brief else None

    def _retold(self, key: Key, seen: _Seen) -> Plan | None:
        """The plan, if it brings nothing but progress. What the API server knows better, it refuses with 409."""
        decided = plan(
            seen.resource, seen.observed, self._hear(key, seen.resource, seen.observed), self._clock(), self._settings
        )
        if decided.status is None:
            return None
        patch = merge_patch(seen.resource.get("status") or {}, decided.status.to_dict())
        return decided if _only_progress(decided, patch) else None

    async def _begin(self, key: Key, fresh: Resource) -> float | None:
        """Create the first Job of what has none, before anything is read or said: in a burst, Jobs come first.

        Its status is written by the pass that the Job's own news brings, and by all means by the one after the seconds
        that this returns. None: this is not so simple a case.
        """
        decided = plan(fresh, Observed(), Heard(), self._clock(), self._settings)
        if not any(isinstance(action, CreateJob) for action in decided.actions):
            return None
        try:
            for action in decided.actions:
                await self._act(key, fresh, action)
        except RefusedError:
            return None
        return decided.requeue_after

    async def _observe(self, resource: Resource) -> Observed:
        namespace, uid = resource["metadata"]["namespace"], resource["metadata"]["uid"]
        jobs, pods = await self._cluster.children(namespace, uid)
        observed = observe(uid, jobs, pods, {})
        silent = [found for attempt in observed.attempts if (found := untold(attempt, self._clock()))]
        events = {about: await self._cluster.events_about(namespace, about, reason) for about, reason in silent}
        return observe(uid, jobs, pods, events) if events else observed

    async def _carry_out(self, key: Key, resource: Resource, observed: Observed) -> Plan | None:
        """Decide and act. A Job that is refused makes another plan: the one that says so."""
        heard, now = self._hear(key, resource, observed), self._clock()
        decided = plan(resource, observed, heard, now, self._settings)
        try:
            for action in decided.actions:
                await self._act(key, resource, action)
        except RefusedError as error:
            refused = Trouble(error.reason, error.message)
            said = plan(resource, observed, heard, now, self._settings, refused)
            return replace(said, requeue_after=self._patience.refused(key, error.reason))
        self._patience.accepted(key)
        return None if any(isinstance(action, DeleteSelf) for action in decided.actions) else decided

    def _hear(self, key: Key, resource: Resource, observed: Observed) -> Heard:
        """Follow the newest attempt's trainer: what it said last."""
        newest = observed.attempts[-1] if observed.attempts else None
        job_name, ip = (newest.job_name, newest.pod_ip) if newest else ("", None)
        self._poller.follow(key, job_name, ip)
        spoke = newest is not None and spoke_before(resource, newest)
        who = key, job_name, ip
        return Heard(self._poller.last(*who), self._poller.silence(*who, spoke=spoke), self._poller.in_vain(*who))

    async def _act(self, key: Key, resource: Resource, action: Action) -> None:
        (namespace, _), uid = key, resource["metadata"]["uid"]
        about = {"about": (*key, uid)}
        match action:
            case CreateService(manifest):
                await self._cluster.create_service(manifest)
            case CreateJob(manifest):
                _logger.info("creating Job %s", manifest["metadata"]["name"], extra=about)
                await self._cluster.create_job(manifest)
            case SetSuspend(name, suspend):
                if not suspend and not self._patience.may_resume(key):
                    return
                _logger.info("setting suspend of Job %s to %s", name, suspend, extra=about)
                await self._cluster.set_suspend(namespace, name, suspend=suspend)
                self._patience.acted(key, suspend=suspend)
            case DeleteJob(name):
                _logger.info("deleting Job %s, whose attempt has ended", name, extra=about)
                await self._cluster.delete_job(namespace, name)
            case DeleteSelf():
                _logger.info("ttlSecondsAfterFinished is over, deleting the FineTuneJob", extra=about)
                await self._cluster.delete(key, uid)

    async def _report(self, key: Key, seen: _Seen, decided: Plan) -> float | None:
        """Write the status if it changed; mere progress waits for its turn. Returns when the next pass is due."""
        if decided.status is None:
            return decided.requeue_after
        resource, new = seen.resource, decided.status
        old = resource.get("status") or {}
        self._states.put(key, _reason(new))
        patch = merge_patch(old, new.to_dict())
        brief = _only_progress(decided, patch)
        left = self._written.get(key, 0.0) + self._settings.status_seconds - time.monotonic()
        if patch and brief and left > 0:
            self._seen[key] = seen
            self._progress.add(key)
            return _earliest(decided.requeue_after, left)
        if patch:
            body = {"metadata": {"resourceVersion": resource["metadata"]["resourceVersion"]}, "status": patch}
            resource = await (self._write_progress(key, body) if brief else self._cluster.patch_status(key, body))
            self._written[key] = time.monotonic()
            self._tell((*key, resource["metadata"]["uid"]), report.read_status(old), new, decided)
            await self._recorder.record(key, resource, decided.notes, self._clock())
        if brief and any(attempt.state is State.RUNNING for attempt in seen.observed.attempts):
            self._seen[key] = _Seen(resource, seen.observed)
        return decided.requeue_after

    async def _write_progress(self, key: Key, body: Resource) -> Resource:
        """Write, and know what the watch will bring of it."""
        self._writing[key] = asyncio.Event()
        try:
            written = await self._cluster.patch_status(key, body)
            self._echoes.setdefault(key, deque(maxlen=_ECHOES)).append(written["metadata"]["resourceVersion"])
            return written
        finally:
            self._writing.pop(key).set()

    async def _stall(self, key: Key, error: Exception) -> None:
        """Say on the object that no pass over it ends, from the second one on. The queue tries again, less and less."""
        if key not in self._failing:
            self._failing.add(key)  # once may be a garbled answer
            return
        said = f"the operator cannot work on it: {type(error).__name__}: {error}; its log has more"
        verdict = Verdict(Reason.INTERNAL_ERROR, said, reconciling=False, stalled=True)
        try:
            resource = await self._cluster.job(key)
            if resource is None or resource["metadata"].get("deletionTimestamp"):
                return
            patch = _stalled(resource, verdict, self._clock())
            if patch:
                body = {"metadata": {"resourceVersion": resource["metadata"]["resourceVersion"]}, "status": patch}
                await self._cluster.patch_status(key, body)
        except (ApiError, TimeoutError, LookupError, TypeError, ValueError) as second:
            _logger.warning("cannot even be marked as stalled: %s", second, extra={"about": key})

    def _tell(self, about: tuple[str, ...], old: Status, new: Status, decided: Plan) -> None:
        for note in decided.notes:
            level = logging.INFO if note.type == "Normal" else logging.WARNING
            _logger.log(level, "%s: %s", note.reason, note.message, extra={"about": about})
        self._measure_waits(old, new)
        if not report.finished(new) or report.finished(old):
            return
        verdict = report.find(new, Condition.SUCCEEDED)
        result = "succeeded" if verdict and verdict.status == "True" else "failed"
        metrics.FINISHED.labels(result, verdict.reason if verdict else "").inc()
        if new.start_time and new.completion_time:
            seconds = datetime.fromisoformat(new.completion_time) - datetime.fromisoformat(new.start_time)
            metrics.TRAIN_SECONDS.labels(result).observe(seconds.total_seconds())
        if new.artifact:
            metrics.ADAPTER_BYTES.observe(new.artifact.bytes)

    def _measure_waits(self, old: Status, new: Status) -> None:
        """Of attempts whose container runs since the last pass, or ran."""
        known = {attempt.job_name for attempt in old.attempts if attempt.node_name}
        for attempt in new.attempts:
            if attempt.node_name and attempt.start_time and attempt.job_name not in known:
                waited = self._clock() - datetime.fromisoformat(attempt.start_time)
                metrics.QUEUE_WAIT_SECONDS.labels(attempt.stage).observe(max(0.0, waited.total_seconds()))

    def _forget(self, key: Key) -> None:
        self._poller.follow(key, "", None)
        self._states.put(key, None)
        self._recorder.forget(key)
        self._patience.forget(key)
        self._fresh.pop(key, None)
        self._seen.pop(key, None)
        self._echoes.pop(key, None)
        self._written.pop(key, None)
        self._failing.discard(key)


def _stalled(resource: Resource, verdict: Verdict, now: datetime) -> Resource:
    """The patch that writes such a verdict, and leaves alone all else, which may be what no pass can read.

    A job that has ended keeps its verdict, and what a finished pass said once of the others stays said.
    """
    old = resource.get("status") or {}
    status = report.read_status({"conditions": old.get("conditions") or []})
    if report.finished(status):
        return {}
    stays = {found["type"]: found for found in old.get("conditions") or []}
    report.pronounce(status, verdict, int(resource["metadata"]["generation"]), now)
    said = status.to_dict()
    said["conditions"] = [
        found
        if found["type"] in (Condition.SUCCEEDED, Condition.RECONCILING, Condition.STALLED)
        else stays.get(found["type"], found)
        for found in said["conditions"]
    ]
    return merge_patch(old, {**old, **{key: said[key] for key in ("conditions", "observedGeneration")}})


def merge_patch(old: Resource, new: Resource) -> Resource:
    """The JSON merge patch (RFC 7386) that turns one object into the other; empty if they are equal."""
    patch: Resource = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif isinstance(value, dict) and isinstance(old[key], dict):
            inner = merge_patch(old[key], value)
            if inner:
                patch[key] = inner
        elif value != old[key]:
            patch[key] = value
    return patch


def _only_progress(decided: Plan, patch: Resource) -> bool:
    """Whether there is nothing to do, and nothing but the trainer's progress to write, if that."""
    return not decided.actions and patch.keys() <= {"progress"}


def _wants_a_look(attempt: Attempt) -> bool:
    """Who runs is asked for its progress, and Events say why one waits for a pod, or for the quota that it had."""
    waits = attempt.suspended and not attempt.live_pods and not (attempt.queue and attempt.suspended_anew)
    return attempt.state is not State.ENDED and not waits


def _reason(status: Status) -> str:
    found = report.find(status, Condition.SUCCEEDED)
    return found.reason if found else "Unknown"


def _earliest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)
