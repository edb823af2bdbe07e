"""The operator with exactly the chart's rights, a life that needs all of them, and what the API server saw of it."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune_api import names
from finetune_api.names import Stage
from finetune_operator import desired
from localcluster import binaries
from localcluster.simulation import ControlPlane
from localcluster.state import REPOSITORY, Paths
from tests.simulation.jobs import get, job, wait_for
from tests.simulation.operators import Operator

Grant = tuple[str, str, str]
"""API group, resource with its subresource, verb."""
Resource = dict[str, Any]


@dataclass(frozen=True)
class Release:
    """The chart as installed: its own namespace is `<name>-system`, the jobs' namespace is `<name>`."""

    name: str
    objects: list[Resource]

    @property
    def account(self) -> str:
        """How the API server calls the operator."""
        return f"system:serviceaccount:{self.name}-system:{self.name}-finetune-operator"

    @property
    def rights(self) -> list[Resource]:
        """Its account, roles and bindings."""
        kinds = ("ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
        return [found for found in self.objects if found["kind"] in kinds]

    @property
    def spaces(self) -> list[Resource]:
        """The namespaces that it wants to be there."""
        named = {found["metadata"].get("namespace", self.name) for found in self.rights}
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": each}}
            for each in sorted({self.name, *named})
        ]

    @property
    def grants(self) -> set[Grant]:
        """Everything that its roles grant."""
        return {
            (group, resource, verb)
            for role in self.objects
            if role["kind"] in ("Role", "ClusterRole")
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    @property
    def settings(self) -> dict[str, str]:
        """The Deployment's environment, as the Operator takes it."""
        (deployment,) = [found for found in self.objects if found["kind"] == "Deployment"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        return {
            entry["name"].removeprefix("FINETUNE_").lower(): entry["value"]
            for entry in container["env"]
            if "value" in entry
        }

    def without(self, grant: Grant) -> "Release":
        """The same with one verb less."""
        objects = json.loads(json.dumps(self.objects))
        for role in objects:
            for rule in role.get("rules", []):
                if grant[0] in rule["apiGroups"] and grant[1] in rule["resources"] and grant[2] in rule["verbs"]:
                    rule["verbs"].remove(grant[2])
            if "rules" in role:
                role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
        return Release(self.name, objects)


def release(name: str, *also: str, cluster_wide: bool) -> Release:
    """Render the chart; it serves the cluster, or the namespace of the release's name and those other ones."""
    helm = binaries.ensure(Paths.default(), ("tools",)) / "helm"
    values = ["crds.enabled=false", *([] if cluster_wide else [f"watchNamespaces={{{','.join((name, *also))}}}"])]
    sets = [part for value in values for part in ("--set", value)]
    command = [helm, "template", name, REPOSITORY / "charts" / "finetune-operator", "--namespace", f"{name}-system"]
    text = subprocess.run([*command, *sets], capture_output=True, text=True, check=True).stdout
    return Release(name, [found for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if found])


@contextmanager
def installed(plane: ControlPlane, chart: Release, folder: Path) -> Iterator[tuple[Operator, Operator]]:
    """Account, roles and bindings on the control plane, and two replicas that have nothing else; not started yet."""
    plane.apply(*chart.spaces, *chart.rights)
    for namespace, resource in ((chart.name, "pods"), (f"{chart.name}-system", "leases")):
        who = ("auth", "can-i", "--list", f"--as={chart.account}", "-n", namespace)
        wait_for("the roles to hold", lambda who=who, resource=resource: resource in plane.kubectl(*who))
    token = plane.kubectl("-n", f"{chart.name}-system", "create", "token", f"{chart.name}-finetune-operator").strip()
    config = json.loads(plane.paths.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    with ExitStack() as stack:
        first, second = (
            Operator(plane, folder / f"{who}.log", kubeconfig=kubeconfig, **chart.settings, pod_name=who)
            for who in ("one", "two")
        )
        stack.callback(first.kill)
        stack.callback(second.kill)
        yield first, second
    # gone before the next comes: what is created in a namespace that ends is refused, whatever one's rights
    plane.kubectl("delete", "namespace", *(space["metadata"]["name"] for space in chart.spaces), timeout=120)


class RefusedError(Exception):
    """The API server said 403."""


class Life:
    """Jobs that need every right between them; each step waits, and gives up as soon as anything was refused."""

    def __init__(self, plane: ControlPlane, chart: Release, replicas: tuple[Operator, Operator]) -> None:
        self._plane, self._chart, self._replicas = plane, chart, replicas
        self._read, self._seen = plane.paths.audit.stat().st_size, list[Resource]()

    def requests(self) -> list[Resource]:
        """What the operator asked for, as the API server wrote it down."""
        with self._plane.paths.audit.open("rb") as log:
            log.seek(self._read)
            lines = log.read().rpartition(b"\n")[0].splitlines()
        self._read += sum(len(line) + 1 for line in lines)
        entries = (json.loads(line) for line in lines)
        self._seen += [entry for entry in entries if entry["user"]["username"] == self._chart.account]
        return self._seen

    def refused(self) -> list[Resource]:
        """Requests that it had no right to."""
        return [entry for entry in self.requests() if entry.get("responseStatus", {}).get("code") == 403]

    def used(self) -> set[Grant]:
        """The rights that it made use of."""
        return {grant(entry) for entry in self.requests() if "objectRef" in entry}

    def live(self) -> None:
        """Raises RefusedError."""
        first, second = self._replicas
        first.start()
        self._until("one to be ready", lambda: first.answer("/readyz")[0] == 200)
        second.start()
        self._until("two to be ready", lambda: second.answer("/readyz")[0] == 200)
        self._succeed_and_expire()
        self._stop_and_go_on()
        self._leave_the_queue()
        self._train_together()
        self._find_others_in_the_way()
        first.terminate()
        self._apply("after")
        self._until("the second replica to finish a job", lambda: self._said("after") == "Published")

    def _succeed_and_expire(self) -> None:
        self._apply("whole", ttlSecondsAfterFinished=0)
        self._until("a finished job to be deleted", lambda: not self._there(names.PLURAL, "whole"))

    def _stop_and_go_on(self) -> None:
        """A Job whose pod finds no node: suspended, resumed, suspended with the same words, deleted by hand."""
        self._apply("held", resources={"gpus": 1, "prepare": {"nodeSelector": {"no": "such-node"}}})
        self._until("its Job", lambda: self._said("held") == "Unschedulable")
        for suspend in (True, False, True, False):
            self._patch("held", suspend=suspend)
            self._until(f"suspend: {suspend}", lambda suspend=suspend: self._suspended("held") == suspend)
            wanted = "Suspended" if suspend else "Unschedulable"
            self._until(f"the word {wanted}", lambda wanted=wanted: self._said("held") == wanted)
        self._kubectl("delete", "job", "-l", f"{names.LABEL_JOB_NAME}=held")
        self._until("it to see that its Job was deleted", lambda: "JobDeleted" in json.dumps(self._status("held")))

    def _leave_the_queue(self) -> None:
        self._apply("queued", queueName="gpus")
        self._until("its Job to wait", lambda: self._said("queued") == "Queued")
        self._patch("queued", suspend=True)
        self._until("its Job to be gone", lambda: self._jobs("queued") == [])

    def _train_together(self) -> None:
        self._apply("gang", resources={"gpus": 1, "nodes": 2})
        self._until("two nodes to train", lambda: self._said("gang") == "Published")

    def _find_others_in_the_way(self) -> None:
        """Somebody else's Job, or Service, has the name that ours would have."""
        self._apply("taken", suspend=True)
        self._apply("gang-taken", suspend=True, resources={"gpus": 1, "nodes": 2})
        taken = desired.job_name("taken", self._uid("taken"), Stage.PREPARE, 1)
        uid = self._uid("gang-taken")
        service = desired.service_name(desired.job_name("gang-taken", uid, Stage.TRAIN, 1), uid)
        container = {"name": "c", "image": "c"}
        pod = {"spec": {"containers": [container], "restartPolicy": "Never"}}
        foreign = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": taken, "namespace": self._chart.name}}
        self._plane.apply(
            {**foreign, "spec": {"suspend": True, "template": pod}},
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": service, "namespace": self._chart.name},
                "spec": {"clusterIP": "None"},
            },
        )
        for name in ("taken", "gang-taken"):
            self._patch(name, suspend=False)
            self._until(f"{name} to see it", lambda name=name: self._said(name) == "NameConflict")

    def _until(self, what: str, condition: Any) -> None:
        def look() -> Any:
            if refused := self.refused():
                raise RefusedError(refused[0]["responseStatus"]["message"])
            return condition()

        wait_for(what, look)

    def _apply(self, name: str, **spec: Any) -> None:
        wanted = job(name, **spec)
        wanted["metadata"]["namespace"] = self._chart.name
        self._plane.apply(wanted)

    def _patch(self, name: str, **spec: Any) -> None:
        self._kubectl("patch", names.PLURAL, name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def _kubectl(self, *arguments: str) -> str:
        return self._plane.kubectl("-n", self._chart.name, *arguments)

    def _status(self, name: str) -> Resource:
        return dict(get(self._plane, names.PLURAL, name, self._chart.name).get("status", {}))

    def _said(self, name: str) -> str:
        found = [c["reason"] for c in self._status(name).get("conditions", []) if c["type"] == "Succeeded"]
        return str(found[0]) if found else ""

    def _uid(self, name: str) -> str:
        return str(get(self._plane, names.PLURAL, name, self._chart.name)["metadata"]["uid"])

    def _there(self, kind: str, name: str) -> bool:
        return name in [found["metadata"]["name"] for found in get(self._plane, kind, "", self._chart.name)["items"]]

    def _jobs(self, name: str) -> list[Resource]:
        found = get(self._plane, "jobs", "", self._chart.name)["items"]
        return [job for job in found if job["metadata"].get("labels", {}).get(names.LABEL_JOB_NAME) == name]

    def _suspended(self, name: str) -> bool:
        return [job["spec"].get("suspend", False) for job in self._jobs(name)] == [True]


def grant(entry: Resource) -> Grant:
    """The right that a request needs."""
    what = entry["objectRef"]
    resource = f"{what['resource']}/{what['subresource']}" if "subresource" in what else what["resource"]
    return what.get("apiGroup", ""), resource, entry["verb"]
