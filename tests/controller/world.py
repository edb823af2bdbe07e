"""A small model of a cluster: the API server's rules and the Job controller's, in memory and in the hands of a test.

It shares no code with the operator. Real semantics kept: deterministic names collide with 409, a status patch needs the
resourceVersion that was read, owners are uids, an ignored pod failure makes a new pod, any other fails the Job, a
suspended Job has no pods, a pod's end is known before its Job's, an Indexed Job has a pod per index, and its success
policy ends it.
"""

import copy
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_operator.errors import ApiError, RefusedError
from finetune_operator.observe import observe
from finetune_operator.reconcile import Reconciler
from finetune_operator.settings import Settings
from tests.controller.podwords import (
    EXIT_CODES,
    FOLLOWS,
    INDEX,
    Ears,
    apply,
    container,
    deleted,
    exit_code,
    finish,
    gang_first,
    index_of,
    run,
    stamp,
    termination_message,
    word,
)

__all__ = ["exit_code", "finish", "index_of", "run", "stamp", "termination_message"]

KEY = ("research", "bot")
UID = "0b6f1c1e-8f5b-4c3e-9d55-7a3f0a1b2c3d"
START = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
SETTINGS = Settings(trainer_image="trainer:test", retry_seconds=10, retry_max_seconds=300)
SPEC: dict[str, Any] = {
    "model": {"uri": "s3://models/smol-135m"},
    "dataset": {"train": {"uri": "s3://datasets/train.jsonl"}},
    "resources": {"gpus": 0},
    "storage": {"secretName": "s3-credentials"},
    "output": {"uri": "s3://adapters/bot"},
}

LONGEST_PAUSE = 300
"""Of SETTINGS; what the operator waits for longer is a deadline."""


class Crashed(BaseException):
    """The operator's process is gone."""


class World:
    """The cluster, the clock, and the operator in it. Implements the operator's Cluster protocol.

    Args:
        spec: Laid over the smallest one.
        outcomes: How trainers end, one after the other; Published is the good end of whatever stage it is.
        prepared: The dataset is ready already, and its Job long gone: the story begins with training.
        chosen: The micro-batch that `prepare` takes, where the spec leaves it to that.
    """

    def __init__(
        self,
        spec: dict[str, Any] | None = None,
        outcomes: tuple[str, ...] = (),
        *,
        prepared: bool = True,
        chosen: int | None = None,
    ) -> None:
        self.chosen = chosen
        self.now = START
        self.outcomes: Iterator[str] = itertools.chain(outcomes, itertools.repeat("Published"))
        self.jobs: dict[str, dict[str, Any]] = {}
        self.silent_nodes: set[str] = set()
        self.services: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.events: dict[str, dict[str, Any]] = {}
        self.created: list[tuple[str, str]] = []  # (attempt, name) of every Job that was ever created
        self.stages: list[str] = []  # the stage of each of them
        self.micro_batches: list[int] = []  # what the run file of each of them says
        self.writes: list[str] = []
        self.writes_left: int | None = None
        self.history: list[dict[str, Any]] = []
        self._serial = itertools.count(1)
        metadata = {"name": KEY[1], "namespace": KEY[0], "uid": UID, "generation": 1, "resourceVersion": "1"}
        metadata["creationTimestamp"] = stamp(START)
        self.resource: dict[str, Any] | None = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": metadata,
            "spec": {**copy.deepcopy(SPEC), **(spec or {})},
        }
        if prepared:
            done = {"stage": "prepare", "number": 1, "jobName": "bot-prepare", "reason": "Prepared", "exitCode": 0}
            self.resource["status"] = {"attempts": [done], "attempt": 1, "jobName": "bot-prepare"}
        self.ears = Ears(lambda: self.now)
        self.restart()

    # -- the operator ---------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """A new operator process: nothing in memory."""
        self.ears.forget()
        self.reconciler = Reconciler(self, self.ears, SETTINGS, clock=lambda: self.now)

    def reconcile(self, crash_after: int | None = None) -> float | None:
        """One pass; with `crash_after` the process dies after so many writes."""
        self.writes_left = crash_after
        try:
            return run(self.reconciler(KEY))
        except Crashed:
            self.restart()
            return 0
        finally:
            self.writes_left = None

    @property
    def status(self) -> dict[str, Any]:
        """The FineTuneJob's status."""
        assert self.resource is not None
        return self.resource.get("status", {})

    def condition(self, kind: str = "Succeeded") -> dict[str, Any]:
        """One of its conditions."""
        return next((c for c in self.status.get("conditions", []) if c["type"] == kind), {})

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Attempts to train, as the status lists them."""
        return [attempt for attempt in self.status.get("attempts", []) if attempt["stage"] == "train"]

    def observed(self) -> Any:
        """What the operator's eyes see."""
        return observe(UID, list(self.jobs.values()), self.pods, {})

    # -- people ---------------------------------------------------------------------------------------------------

    def edit(self, **spec: Any) -> None:
        """Change the spec as kubectl would."""
        assert self.resource is not None
        if any(self.resource["spec"].get(key) != value for key, value in spec.items()):
            self.resource["spec"].update(spec)
            self.resource["metadata"]["generation"] += 1
            self._touch()

    def delete_jobs(self) -> None:
        """Delete all Jobs by hand; the garbage collector takes their pods."""
        self.jobs.clear()
        self.pods.clear()

    # -- the cluster's own controllers ----------------------------------------------------------------------------

    def make_pods(self) -> None:
        """The Job controller gives each active Job its pod, after it has looked at those that ended."""
        self.sync_jobs()
        for job in self.jobs.values():
            if _over(job) or job["spec"].get("suspend") or deleted(job):
                continue
            for index in range(job["spec"]["completions"]):
                own = [pod for pod in self._pods_of(job) if index_of(pod) == index]
                if not any(pod["status"]["phase"] in ("Pending", "Running", "Succeeded") for pod in own):
                    self.pods.append(self._pod(job, index))

    def start_pods(self) -> None:
        """The kubelet starts what waits."""
        for pod in self.pods:
            if pod["status"]["phase"] == "Pending":
                pod["spec"]["nodeName"] = "node-1"
                state = {"running": {"startedAt": stamp(self.now)}}
                held = {"startTime": pod["status"].get("startTime") or stamp(self.now), "podIP": "10.0.0.7"}
                pod["status"] = {"phase": "Running", **held, "containerStatuses": [container(state)]}

    def bind_pods(self) -> None:
        """A node takes what waits, and pulls its image."""
        for pod in self.pods:
            if pod["status"]["phase"] == "Pending":
                pod["spec"]["nodeName"] = "node-1"
                pod["status"].setdefault("startTime", stamp(self.now))

    def end_pods(self) -> None:
        """Running trainers end as the script says; those of several nodes all at once, when all of them run.

        The last node knows the reason of a failure, the others have lost a peer; a stop is everybody's.
        """
        for job in self.jobs.values():
            pods = [pod for pod in self._pods_of(job) if pod["status"]["phase"] == "Running"]
            if len(pods) < job["spec"]["completions"]:
                continue
            reason = next(self.outcomes)
            if reason == "Published" and job["metadata"]["labels"]["finetune.dev/stage"] == "prepare":
                reason = "Prepared"
            followed = {"Published": "TookPart", "Preempted": "Preempted"}.get(reason, "PeerLost")
            knows = pods[0] if reason == "Published" else pods[-1]
            for pod in pods:
                said = reason if pod is knows else followed
                finish(pod, EXIT_CODES[said], termination_message(said, self.chosen), at=self.now)

    def sync_jobs(self) -> None:
        """The Job controller draws its conclusions; what is deleted goes when its pods have saved and ended."""
        if not self._stop():
            self._remove_deleted()
        for job in self.jobs.values():
            if _over(job):
                continue
            for pod in self._pods_of(job):
                code = exit_code(pod)
                if code == 0 and index_of(pod) == 0:
                    self._conclude(job, "Complete", "CompletionsReached", "")
                elif code not in (None, 0, 75):
                    message = (
                        f"Container trainer for pod {pod['metadata']['name']} failed with exit code {code} matching"
                    )
                    self._conclude(job, "Failed", "PodFailurePolicy", message)
            if job["spec"].get("suspend") and not _over(job):
                self.pods = [pod for pod in self.pods if pod not in self._pods_of(job)]

    def _stopping(self) -> list[dict[str, Any]]:
        """Jobs whose pods are told to end."""
        return [job for job in self.jobs.values() if deleted(job)]

    def _stop(self) -> bool:
        """SIGTERM to what shall end; whether anything of it ran. A silent node hears nothing."""
        pods = [p for job in self._stopping() for p in self._pods_of(job) if p["status"]["phase"] == "Running"]
        for pod in pods:
            if pod["spec"]["nodeName"] in self.silent_nodes:
                pod["metadata"].setdefault("deletionTimestamp", stamp(self.now + timedelta(seconds=60)))
            else:
                finish(pod, 75, termination_message("Preempted"), at=self.now)
        return bool(pods)

    def _remove_deleted(self) -> None:
        """What a trainer had said of itself goes with its pod; the next one finds it out again."""
        for name, job in list(self.jobs.items()):
            if deleted(job) and not _over(job):
                words = [word(pod) for pod in self._pods_of(job)]
                again = [{"Prepared": "Published"}.get(said, said) for said in words if said not in FOLLOWS]
                self.outcomes = itertools.chain(again, self.outcomes)
                self.pods = [pod for pod in self.pods if pod not in self._pods_of(job)]
                del self.jobs[name]

    def say(self, **progress: Any) -> None:
        """The running trainer answers."""
        (job,) = (job for job in self.jobs.values() if any(gang_first(pod) for pod in self._pods_of(job)))
        self.ears.hear(job["metadata"]["name"], progress)
        self.reconciler._written.clear()  # long enough after the last status write

    def pass_time(self, seconds: float) -> None:
        """The clock goes on."""
        self.now += timedelta(seconds=seconds)

    def settle(self, passes: int = 150) -> None:
        """Let everybody do their work, in turns, until the job is over and the operator has nothing more to write."""
        for _ in range(passes):
            before = len(self.writes)
            again = self.reconcile()
            if self.condition().get("status") in ("True", "False") and len(self.writes) == before:
                return
            self.make_pods()
            self.start_pods()
            self.end_pods()
            self.sync_jobs()
            self.pass_time(max(7, min(again or 0, LONGEST_PAUSE)))
        raise AssertionError(f"no end after {passes} rounds: {self.status}")

    # -- the Cluster protocol -------------------------------------------------------------------------------------

    async def check(self, namespaces: tuple[str, ...]) -> None:
        """See Cluster."""

    async def pages(self, kind: str, namespaces: tuple[str, ...]) -> AsyncIterator[list[dict[str, Any]]]:
        """See Cluster."""
        found = {
            "finetunejobs": [self.resource] if self.resource else [],
            "jobs": [*self.jobs.values()],
            "pods": self.pods,
        }
        if namespaces in ((), (KEY[0],)):
            yield copy.deepcopy(found[kind])

    async def job(self, key: tuple[str, str]) -> dict[str, Any] | None:
        """See Cluster."""
        return copy.deepcopy(self.resource) if key == KEY else None

    async def children(self, namespace: str, uid: str) -> tuple[list[Any], list[Any]]:
        """See Cluster."""
        assert (namespace, uid) == (KEY[0], UID)
        return copy.deepcopy(list(self.jobs.values())), copy.deepcopy(self.pods)

    async def events_about(self, *_: str) -> list[dict[str, Any]]:
        """See Cluster."""
        return []

    async def create_service(self, manifest: dict[str, Any]) -> None:
        """See Cluster."""
        self.services.setdefault(manifest["metadata"]["name"], copy.deepcopy(manifest))
        self._wrote("service")

    async def create_job(self, manifest: dict[str, Any]) -> None:
        """See Cluster."""
        name = manifest["metadata"]["name"]
        if name in self.jobs:
            (owner,) = self.jobs[name]["metadata"]["ownerReferences"]
            if owner["uid"] != UID:
                raise RefusedError("NameConflict", f"Job {name} belongs to somebody else")
            return
        job = copy.deepcopy(manifest)
        job["metadata"] |= {"uid": f"job-{next(self._serial)}", "creationTimestamp": stamp(self.now)}
        job["status"] = {"startTime": stamp(self.now)}
        self.jobs[name] = job
        self.created.append((job["metadata"]["labels"]["finetune.dev/attempt"], name))
        self.stages.append(job["metadata"]["labels"]["finetune.dev/stage"])
        run_file = json.loads(job["spec"]["template"]["metadata"]["annotations"]["finetune.dev/run"])
        self.micro_batches.append(run_file["training"]["microBatchSize"])
        self._wrote("create")

    async def set_suspend(self, namespace: str, name: str, *, suspend: bool) -> None:  # noqa: ARG002
        """See Cluster."""
        self.jobs[name]["spec"]["suspend"] = suspend
        self._wrote("suspend")

    async def delete_job(self, namespace: str, name: str) -> None:
        """In the foreground: the Job stays until its pods have ended, and those get SIGTERM at once."""
        assert namespace == KEY[0]
        if name in self.jobs:
            self.jobs[name]["metadata"].setdefault("deletionTimestamp", stamp(self.now))
        self._wrote("delete job")

    async def patch_status(self, key: tuple[str, str], patch: dict[str, Any]) -> dict[str, Any]:
        """See Cluster."""
        assert key == KEY
        assert self.resource is not None
        if patch["metadata"]["resourceVersion"] != self.resource["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        self.resource["status"] = apply(self.status, copy.deepcopy(patch["status"]))
        self._touch()
        self.history.append(copy.deepcopy(self.status))
        self._wrote("status")
        return copy.deepcopy(self.resource)

    async def delete(self, key: tuple[str, str], uid: str) -> None:
        """See Cluster."""
        assert (key, uid) == (KEY, UID)
        self.resource = None
        self.delete_jobs()
        self.services = {n: s for n, s in self.services.items() if s["metadata"]["ownerReferences"][0]["uid"] != UID}
        self._wrote("delete")

    async def record(self, namespace: str, name: str, event: dict[str, Any]) -> None:  # noqa: ARG002
        """See Cluster."""
        old = self.events.pop(name, {**event, "count": 0})  # to the end: kubectl sorts by the last time
        self.events[name] = {**event, "count": old["count"] + 1, "firstTimestamp": old["firstTimestamp"]}
        self._wrote("event")

    # -- its inside -----------------------------------------------------------------------------------------------

    def _wrote(self, what: str) -> None:
        self.writes.append(what)
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left <= 0:
                raise Crashed

    def _touch(self) -> None:
        assert self.resource is not None
        metadata = self.resource["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)

    def _pods_of(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        return [p for p in self.pods if p["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]]

    def _pod(self, job: dict[str, Any], index: int = 0) -> dict[str, Any]:
        template = copy.deepcopy(job["spec"]["template"])
        serial = next(self._serial)
        owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"], "controller": True}
        template["metadata"] |= {
            "name": f"{job['metadata']['name']}-{serial:05d}",
            "namespace": KEY[0],
            "uid": f"pod-{serial}",
            "creationTimestamp": stamp(self.now),
            "ownerReferences": [owner],
        }
        if job["spec"].get("completionMode") == "Indexed":
            template["metadata"]["labels"][INDEX] = str(index)
        return {**template, "status": {"phase": "Pending"}}

    def _conclude(self, job: dict[str, Any], kind: str, reason: str, message: str) -> None:
        said = {"type": kind, "status": "True", "reason": reason, "message": message}
        job["status"]["conditions"] = [{**said, "lastTransitionTime": stamp(self.now)}]


def _over(job: dict[str, Any]) -> bool:
    return bool(job["status"].get("conditions"))
