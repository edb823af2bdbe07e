"""Everything of kopf: settings, three watches that only enqueue, start and stop."""

import asyncio
import logging
import os
import random
import signal
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import kopf

from finetune_api import names
from finetune_operator import health, listening, logs, metrics
from finetune_operator.cluster import ApiCluster, Key, connect
from finetune_operator.errors import ApiError
from finetune_operator.fence import Fence
from finetune_operator.lease import Alone, Elector, Timing
from finetune_operator.progress import Poller
from finetune_operator.reconcile import Reconciler
from finetune_operator.settings import Settings
from finetune_operator.survey import Survey
from finetune_operator.workqueue import Lane, WorkQueue

_logger = logging.getLogger(__name__)
_SELECTOR = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
_API_SECONDS = 2.0
_STOP_SECONDS = 8.0
_LAST_SECONDS = 2.0


class NoEssence(kopf.AnnotationsDiffBaseStorage):
    """Nobody here asks what changed in an object, and kopf would copy each one to know: a fifth of its CPU."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:  # noqa: ARG002 - kopf's
        """Nothing of it."""
        return kopf.BodyEssence()


def kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    """Kopf as a list-and-watch engine: it writes nothing to any object and asks for nothing beyond the three kinds."""
    result = kopf.OperatorSettings()
    result.persistence.finalizer = f"{names.GROUP}/unused"
    result.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP, v1=False)
    result.persistence.diffbase_storage = NoEssence(prefix=names.GROUP, v1=False)
    result.scanning.disabled = True
    result.peering.standalone = True
    result.posting.enabled = False
    result.posting.reporting_component = names.MANAGED_BY
    result.networking.request_timeout = settings.request_seconds
    result.networking.enforce_retry_after = True
    result.queueing.idle_timeout = 0.05  # a task that waits for more news of an object holds the last body until then
    result.watching.server_timeout = 300  # an int: kopf puts it into the query as it is
    result.watching.client_timeout = 310
    result.watching.connect_timeout = 30
    result.watching.reconnect_backoff = 1.0
    result.watching.chunk_size = 100
    result.watching.label_selectors["batch", "v1", "jobs"] = _SELECTOR
    result.watching.label_selectors["", "v1", "pods"] = _SELECTOR
    return result


@dataclass(frozen=True)
class Ears:
    """What the watches tell, and whom. Only the leader acts on news; who takes over looks at everything first."""

    leads: Callable[[], bool]
    queue: WorkQueue[Key]
    reconciler: Reconciler
    listener: listening.Listener

    def tell(self, type: str | None, namespace: str | None, name: str, lane: Lane = Lane.NEWS) -> None:  # noqa: A002 - kopf's
        """Something happened to that FineTuneJob, or to what belongs to it.

        Anybody may make a Job or Pod with our label; one that names no FineTuneJob is nobody's.
        """
        if name and type is not None and self.leads():  # None: it was listed, and the survey looks at all that is
            self.reconciler.news((namespace or "", name))
            self.queue.add((namespace or "", name), lane)


def registry(ears: Ears, cluster: ApiCluster) -> kopf.OperatorRegistry:
    """The watches. Handlers do no I/O and cannot fail: kopf would not call them again."""
    result = kopf.OperatorRegistry()

    @kopf.on.login(registry=result)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return listening.session(kopf.ConnectionInfo(**await cluster.credentials()), cluster.agent, ears.listener)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=result)
    async def on_job(namespace: str | None, name: str | None, type: str | None, event: Any, **_: Any) -> None:  # noqa: A002 - kopf's
        resource = event["object"]
        fresh = type == "ADDED" and not resource.get("status", {}).get("conditions")
        if fresh and ears.leads():
            ears.reconciler.met(resource)
        if type != "MODIFIED" or not await ears.reconciler.wrote(resource):
            ears.tell(type, namespace, name or "", Lane.FIRST if fresh else Lane.NEWS)

    @kopf.on.event("batch", "v1", "jobs", registry=result)
    async def on_batch_job(namespace: str | None, labels: kopf.Labels, type: str | None, **_: Any) -> None:  # noqa: A002
        ears.tell(type, namespace, labels.get(names.LABEL_JOB_NAME, ""))

    @kopf.on.event("", "v1", "pods", registry=result)
    async def on_pod(namespace: str | None, labels: kopf.Labels, type: str | None, **_: Any) -> None:  # noqa: A002
        ears.tell(type, namespace, labels.get(names.LABEL_JOB_NAME, ""))

    return result


def _listener(state: health.Health, survey: Survey) -> listening.Listener:
    """What becomes of what the watches bring, bookmarks included, and of those that bring nothing any more."""

    def heard(path: str) -> None:
        state.heard(path)
        metrics.watch_heard(path)

    def refused(path: str) -> None:
        if state.refused(path):
            _logger.warning("there is no right to watch %s any more; it is asked for again until there is", path)
            survey.want()  # which finds out what else cannot be read

    return listening.Listener(heard, refused, survey.want)


async def run(settings: Settings) -> int:
    """Be the operator until SIGTERM or until a part of it fails; returns the exit status."""
    identity, fence, state = settings.identity(), Fence(), health.Health()
    cluster = await connect(settings.request_seconds, fence, identity)
    cluster.answered = state.answered
    elector = _elector(settings, cluster, identity)
    fence.may_write = elector.may_write
    queue: WorkQueue[Key] = WorkQueue(on_retry=metrics.QUEUE_RETRIES.inc)
    metrics.QUEUE_DEPTH.set_function(lambda: len(queue))

    def progressed(key: Key) -> None:
        reconciler.progressed(key)
        queue.add(key)

    poller = Poller(settings.progress_seconds, progressed)
    reconciler = Reconciler(cluster, poller, settings)
    survey = Survey(cluster, reconciler, queue, settings.namespaces)
    server = health.Server(settings.http_host, settings.http_port, state, metrics.render)
    workers = [
        asyncio.create_task(_as_leader(elector, queue.work, reconciler), name=f"worker {n}")
        for n in range(settings.workers)
    ]
    stop, ready = asyncio.Event(), asyncio.Event()
    _take_signals(stop)
    parts = [
        *workers,
        asyncio.create_task(_stopped(stop), name="stop"),
        asyncio.create_task(elector.run(), name="leader election"),
        asyncio.create_task(_as_leader(elector, poller.run), name="progress"),
        asyncio.create_task(state.keep_beating(), name="heartbeat"),
        asyncio.create_task(_when_ready(ready, elector, stop, state), name="readiness"),
        asyncio.create_task(
            _as_leader(elector, survey.run, lambda: settings.resync_seconds * random.uniform(0.8, 1.2)), name="survey"
        ),
    ]
    ears = Ears(elector.leading.is_set, queue, reconciler, _listener(state, survey))
    watches = asyncio.create_task(_watch(settings, registry(ears, cluster), cluster, stop, ready), name="watches")
    try:
        done, _ = await asyncio.wait([watches, *parts], return_when=asyncio.FIRST_COMPLETED)
        return _verdict(done, stopping=stop.is_set())
    finally:
        state.ready = False
        stop.set()
        if not ready.is_set():
            watches.cancel()  # kopf has not started yet, so there is nothing to end in order
        await _wind_down(queue, workers, elector, [watches, *parts])
        await cluster.close()
        server.close()


async def _watch(
    settings: Settings,
    handlers: kopf.OperatorRegistry,
    cluster: ApiCluster,
    stop: asyncio.Event,
    ready: asyncio.Event,
) -> None:
    await _wait_for_api(cluster, settings)
    where: dict[str, Any] = {"namespaces": settings.namespaces} if settings.namespaces else {"clusterwide": True}
    before = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=handlers,
        settings=kopf_settings(settings),
        standalone=True,
        stop_flag=stop,
        ready_flag=ready,
        **where,
    )
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        for task in done:
            task.result()
        return  # without waiting for the others: kopf would, however long that takes, and nobody watched meanwhile
    await kopf.run_tasks(tasks, ignored=before)


async def _wait_for_api(cluster: ApiCluster, settings: Settings) -> None:
    """Wait until FineTuneJobs can be listed: kopf looks for the kinds it watches only once, when it starts."""
    while True:
        try:
            await cluster.check(settings.namespaces)
        except (ApiError, TimeoutError) as error:
            _logger.warning("waiting for FineTuneJobs to be listable: %s", error)
            await asyncio.sleep(_API_SECONDS)
        else:
            return


async def _when_ready(ready: asyncio.Event, elector: Elector, stop: asyncio.Event, state: health.Health) -> None:
    """Ready is who can lead: it watches and reaches the Lease. A standby is as ready as the leader.

    The signals are taken back from kopf once it has set its own: it would stop, and nobody could tell why.
    """
    await ready.wait()
    _take_signals(stop)
    await elector.reached.wait()
    state.ready = True
    _logger.info("watching FineTuneJobs, their Jobs and Pods")
    await stop.wait()


def _elector(settings: Settings, cluster: ApiCluster, identity: str) -> Elector:
    if not settings.leader_election:
        return Alone()
    timing = Timing(settings.lease_seconds, settings.lease_renew_seconds, settings.lease_retry_seconds)
    namespace = settings.lease_namespace or cluster.namespace
    return Elector(cluster, namespace, settings.lease_name, identity, timing)


async def _as_leader(elector: Elector, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Do what only the leader does: nothing until this replica leads, and from then on until the process ends."""
    await elector.leading.wait()
    await work(*arguments)


async def _stopped(stop: asyncio.Event) -> None:
    await stop.wait()


def _take_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def _verdict(done: set[asyncio.Task[None]], *, stopping: bool) -> int:
    """No part ends by itself: whatever did, without being told to, makes the process exit for a restart."""
    for task in done:
        error = task.exception() if not task.cancelled() else None
        if error is not None or not stopping:
            _logger.error("%s ended: %s", task.get_name(), error or "nobody told it to", exc_info=error)
            return 1
    _logger.info("stopping")
    return 0


async def _wind_down(
    queue: WorkQueue[Key], workers: list[asyncio.Task[None]], elector: Elector, parts: list[asyncio.Task[None]]
) -> None:
    """Finish the passes in hand, give the Lease back after the last write, then end everything."""
    queue.stop()
    if elector.leading.is_set() and elector.may_write():
        await asyncio.wait(workers, timeout=_STOP_SECONDS / 2)
    ending = [task for task in parts if task.get_name() != "watches"]
    for task in ending:
        task.cancel()
    await asyncio.wait(ending, timeout=1)
    await elector.release()
    await asyncio.wait(parts, timeout=_STOP_SECONDS / 2)


def serve(settings: Settings) -> int:
    """Set up and run; returns the exit status."""
    logs.set_up(settings.log_format, settings.log_level)
    metrics.set_up()
    try:
        return asyncio.run(_run(settings))
    except KeyboardInterrupt:
        return 130


async def _run(settings: Settings) -> int:
    """Once everything is in order, the process ends within a few seconds, whatever a task says to being cancelled."""
    status = 1
    try:
        status = await run(settings)
        return status
    finally:
        last = threading.Timer(_LAST_SECONDS, os._exit, (status,))
        last.daemon = True
        last.start()
