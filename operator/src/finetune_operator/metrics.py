"""Prometheus metrics. Never an object's name as a label: the number of series must not grow with the jobs."""

import re
from collections import Counter as Counts
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info, disable_created_metrics, generate_latest

from finetune_api import __version__
from finetune_api.names import ClusterReason
from finetune_api.outcome import Reason

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for
_SECONDS_OF_WAITING = (5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_SECONDS_OF_TRAINING = (60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)
RECONCILES = Counter("finetune_reconcile_total", "Passes over a FineTuneJob.", ["result"])
RECONCILE_SECONDS = Histogram("finetune_reconcile_duration_seconds", "Duration of a pass.")
QUEUE_DEPTH = Gauge("finetune_workqueue_depth", "FineTuneJobs waiting for a pass.")
QUEUE_RETRIES = Counter("finetune_workqueue_retries_total", "Passes repeated after an error.")
API_REQUESTS = Counter("finetune_api_requests_total", "Requests to the API server.", ["verb", "resource", "code"])
API_SECONDS = Histogram("finetune_api_request_duration_seconds", "Duration of requests.", ["verb", "resource"])
LAST_EVENT = Gauge(
    "finetune_watch_last_event_timestamp_seconds", "When a watch last brought an event or a bookmark.", ["resource"]
)
LEADER = Gauge("finetune_leader", "Whether this replica leads: 1 or 0.")
JOBS = Gauge("finetune_jobs", "FineTuneJobs by the reason of their Succeeded condition.", ["state"])
FINISHED = Counter("finetune_jobs_finished_total", "FineTuneJobs that ended.", ["result", "reason"])
QUEUE_WAIT_SECONDS = Histogram(
    "finetune_queue_wait_seconds",
    "From an attempt's Job to its first running container, as the operator saw it.",
    ["stage"],
    buckets=_SECONDS_OF_WAITING,
)
TRAIN_SECONDS = Histogram(
    "finetune_train_duration_seconds",
    "From the first attempt's start to the verdict.",
    ["result"],
    buckets=_SECONDS_OF_TRAINING,
)
ADAPTER_BYTES = Histogram(
    "finetune_adapter_bytes", "Size of published adapters.", buckets=[2.0**power for power in range(20, 36, 2)]
)
BUILD = Info("finetune_build", "Version of the operator.")

_RESOURCE = re.compile(r"/(finetunejobs|jobs|pods|services|events|leases)(/[^/?]+)?(/status)?(\?|$)")


def set_up() -> None:
    """Say which version runs, and start what is counted at 0: the first of a kind is a rise, too."""
    BUILD.info({"version": __version__})
    for result in ("ok", "conflict", "error"):
        RECONCILES.labels(result)
    for reason in (*Reason, *ClusterReason):
        FINISHED.labels("succeeded" if reason in (Reason.PUBLISHED, Reason.ALREADY_PUBLISHED) else "failed", reason)


def watch_heard(path: str) -> None:
    """A watch of that URL brought something."""
    if found := _RESOURCE.search(path):
        LAST_EVENT.labels(found[1]).set_to_current_time()


def api_request(verb: str, path: str, code: str, seconds: float) -> None:
    """Count one request."""
    found = _RESOURCE.search(path)
    resource = found[1] + (found[3] or "") if found else "other"
    API_REQUESTS.labels(verb, resource, code).inc()
    API_SECONDS.labels(verb, resource).observe(seconds)


class States:
    """Counts jobs by state without naming them in a label."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], str] = {}
        self._counts: Counts[str] = Counts()

    def __contains__(self, key: object) -> bool:
        return key in self._states

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._states)

    def put(self, key: tuple[str, str], state: str | None) -> None:
        """The job is in that state now; None: it is gone."""
        old = self._states.get(key)
        if old == state:
            return
        if state is None:
            del self._states[key]
        else:
            self._states[key] = state
        for changed, by in ((old, -1), (state, 1)):
            if changed is not None:
                self._counts[changed] += by
                JOBS.labels(changed).set(self._counts[changed])


def render() -> bytes:
    """The text that /metrics serves."""
    return generate_latest(REGISTRY)
