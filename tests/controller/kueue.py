"""What Kueue does to a batch/v1 Job, and nothing else of it; written from its job webhook and reconciler.

A Job with a queue label is suspended when it is created. Admission sets `suspend` to false and merges node selector,
tolerations and labels into the pod template; eviction suspends, restores the template and clears `status.startTime`.
A write of the operator to what is Kueue's would be reverted; here it is noted.
"""

import copy
from typing import Any

from tests.controller.podwords import deleted, stamp
from tests.controller.world import KEY, LONGEST_PAUSE, World

LABEL = "kueue.x-k8s.io/queue-name"
FLAVOR = {
    "nodeSelector": {"cloud/pool": "spot-gpus"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "schedulingGates": [{"name": "kueue.x-k8s.io/topology"}],
}
PREEMPTED = "Preempted to accommodate a workload due to prioritization in the ClusterQueue"


class QueuedWorld(World):
    """A World with Kueue in it, and with Jobs that are deleted as the garbage collector does in the foreground."""

    def __init__(self, spec: dict[str, Any] | None = None, outcomes: tuple[str, ...] = (), **more: Any) -> None:
        self.templates: dict[str, dict[str, Any]] = {}  # of admitted Jobs by uid, as they were before
        self.stops: dict[str, list[str]] = {}  # messages of Events about Jobs, by uid
        self.trespasses: list[str] = []  # writes of the operator to what is Kueue's
        self.admissions = 0
        super().__init__({"queueName": "team-a", **(spec or {})}, outcomes, **more)

    # -- Kueue ----------------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """There is quota for all that wait."""
        for job in self._queued():
            if job["spec"]["suspend"] and not deleted(job) and not job["status"].get("conditions"):
                self.templates[job["metadata"]["uid"]] = copy.deepcopy(job["spec"]["template"])
                template = job["spec"]["template"]
                template["metadata"]["labels"]["kueue.x-k8s.io/podset"] = "main"
                template["spec"]["nodeSelector"] = {
                    **template["spec"].get("nodeSelector", {}),
                    **FLAVOR["nodeSelector"],
                }
                for key in ("tolerations", "schedulingGates"):
                    template["spec"][key] = template["spec"].get(key, []) + FLAVOR[key]
                job["spec"]["suspend"] = False
                job["status"]["startTime"] = stamp(self.now)
                self.admissions += 1

    def evict(self) -> None:
        """Somebody more important needs the quota of all that run."""
        for job in self._queued():
            before = self.templates.get(job["metadata"]["uid"])
            if before is not None and not job["spec"]["suspend"] and not job["status"].get("conditions"):
                job["spec"]["suspend"] = True
                job["status"].pop("startTime", None)
                job["spec"]["template"] = self.templates.pop(job["metadata"]["uid"])
                self.stops.setdefault(job["metadata"]["uid"], []).append(PREEMPTED)

    def _queued(self) -> list[dict[str, Any]]:
        return [job for job in self.jobs.values() if LABEL in job["metadata"]["labels"]]

    # -- the cluster ----------------------------------------------------------------------------------------------

    def _stopping(self) -> list[dict[str, Any]]:
        """Also what is suspended: its pods get SIGTERM, save a checkpoint, and are gone a turn later."""
        return [job for job in self.jobs.values() if job["spec"].get("suspend") or deleted(job)]

    def settle(self, passes: int = 150) -> None:
        """As in World, with an admission in each turn."""
        for _ in range(passes):
            before = len(self.writes)
            again = self.reconcile()
            if self.condition().get("status") in ("True", "False") and len(self.writes) == before:
                return
            self.admit()
            self.make_pods()
            self.start_pods()
            self.end_pods()
            self.sync_jobs()
            self.pass_time(max(7, min(again or 0, LONGEST_PAUSE)))
        raise AssertionError(f"no end after {passes} rounds: {self.status}")

    # -- the Cluster protocol -------------------------------------------------------------------------------------

    async def create_job(self, manifest: dict[str, Any]) -> None:
        """Kueue's webhook: what has a queue is born suspended, whatever it says itself."""
        try:
            await super().create_job(manifest)
        finally:
            job = self.jobs[manifest["metadata"]["name"]]
            if LABEL in job["metadata"]["labels"] and job["metadata"]["uid"] not in self.templates:
                if not manifest["spec"].get("suspend"):
                    self.trespasses.append("created a Job that would run where Kueue is down")
                job["spec"]["suspend"] = True
                job["status"].pop("startTime", None)

    async def set_suspend(self, namespace: str, name: str, *, suspend: bool) -> None:
        """On a Job in a queue that is a trespass, and Kueue reverts it."""
        if LABEL in self.jobs[name]["metadata"]["labels"]:
            self.trespasses.append(f"set suspend of {name} to {suspend}")
            self._wrote("suspend")
            return
        await super().set_suspend(namespace, name, suspend=suspend)

    async def events_about(self, namespace: str, uid: str, reason: str = "") -> list[dict[str, Any]]:
        """Kueue tells on the Job why it stopped it."""
        assert namespace == KEY[0]
        return [{"message": said} for said in self.stops.get(uid, [])] if reason == "Stopped" else []
