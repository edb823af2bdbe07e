"""A control plane that stands alone on loopback: the real etcd, API server and controllers, with nodes that kwok plays.

For what has to be seen on the real API and needs no container: thousands of jobs, faults, other programs' clocks. Many
can run side by side, each in a folder of its own. kwok: https://kwok.sigs.k8s.io/docs/user/configuration/
"""

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from localcluster import binaries, controlplane, pki, process
from localcluster.controlplane import Ports
from localcluster.errors import DaemonDiedError
from localcluster.state import Paths

MODULES = ("kubernetes", "etcd", "simulation")
POD_NETWORK = "127.16.0.1/12"  # of loopback, so that who serves there can be every pod at once
Resource = dict[str, Any]
_NEVER_READY = {
    "key": '.status.conditions.[] | select( .type == "Ready" ) | .status',
    "operator": "NotIn",
    "values": ["True"],
}
_DELETED = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
_NODE_STATUS = (
    "conditions:\n- {type: Ready, status: 'True', reason: KubeletReady, message: simulated, "
    "lastHeartbeatTime: {{ Now | Quote }}, lastTransitionTime: {{ Now | Quote }}}\n"
)


class ControlPlane:
    """The programs, each of which may be ended and started again.

    Attributes:
        paths: Its folder: `kubeconfig`, `audit` and one log per program lie there.
        ports: Where it listens on 127.0.0.1.
    """

    def __init__(self, root: Path, stages: Sequence[Resource] = ()) -> None:
        self.paths, self.ports = Paths(root), Ports(*free_ports(3))
        self._stages = stages
        self._commands = self._command_lines()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self.ports.api}"

    def prepare(self) -> None:
        """Make the folder: links to the programs, keys, kubeconfigs, configuration."""
        for folder in (self.paths.run, self.paths.log, self.paths.conf, self.paths.bin.parent):
            folder.mkdir(parents=True)
        self.paths.bin.symlink_to(binaries.ensure(Paths.default(), MODULES))
        pki.create(self.paths, self.url)
        controlplane.write_audit_policy(self.paths.conf / "audit.json")
        documents = (json.dumps(stage) for stage in (*_always(), *self._stages))
        (self.paths.conf / "kwok.yaml").write_text("\n---\n".join(documents))

    def start(self, name: str) -> None:
        """Start a program: etcd, kube-apiserver, kube-controller-manager, kube-scheduler or kwok."""
        with (self.paths.log / f"{name}.log").open("ab") as out:
            # whatever ends these tests ends the program too
            command = ["setpriv", "--pdeathsig", "KILL", *self._commands[name]]
            self._running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def stop(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a program and wait until it is gone."""
        program = self._running.pop(name)
        program.send_signal(number)
        try:
            program.wait(timeout=20)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()

    def stop_all(self) -> None:
        """End everything, the API server's clients first."""
        for name in reversed(self._running.copy()):
            self.stop(name)

    def pid(self, name: str) -> int:
        """Return the process of a program that runs."""
        return self._running[name].pid

    def runs(self, name: str) -> bool:
        """Whether the program was started and not stopped."""
        return name in self._running

    def wait_until_ready(self) -> None:
        """Wait until the API server answers."""
        process.wait_until(
            "the API server to be ready",
            lambda: process.attempt([*self._kubectl(), "get", "--raw", "/readyz"]).returncode == 0,
            timeout=120,
            check=self._all_alive,
            log=self.paths.log / "kube-apiserver.log",
        )

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl as the administrator and return its output."""
        return process.run([*self._kubectl(), *arguments], stdin=stdin, timeout=timeout)

    def apply(self, *objects: Resource) -> None:
        """Create or change objects."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "--filename", "-", stdin=json.dumps(document))

    def install(self, crd: Path) -> None:
        """Create a CustomResourceDefinition and wait until it is served: `kubectl wait` wants a status to be there."""
        self.kubectl("apply", "--server-side", "--filename", str(crd))
        process.wait_until(
            f"{crd.name} to be served",
            lambda: _established(json.loads(self.kubectl("get", "--filename", str(crd), "--output", "json"))),
            timeout=60,
            check=self._all_alive,
        )

    def audit(self) -> list[Resource]:
        """Return the API server's audit log so far."""
        return [json.loads(line) for line in self.paths.audit.read_text().splitlines()]

    def _kubectl(self) -> list[str]:
        cache = f"--cache-dir={self.paths.kubectl_cache}"
        return [f"{self.paths.bin}/kubectl", f"--kubeconfig={self.paths.kubeconfig}", cache]

    def _all_alive(self) -> None:
        for name, program in self._running.items():
            if program.poll() is not None:
                raise DaemonDiedError(f"{name} ended by itself.", log=self.paths.log / f"{name}.log")

    def _command_lines(self) -> Mapping[str, list[str]]:
        paths = self.paths
        return {
            "etcd": controlplane.etcd(paths, self.ports),
            "kube-apiserver": [
                *controlplane.apiserver(paths, self.ports),
                "--bind-address=127.0.0.1",
                "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",  # as on OpenShift: the strictest
            ],
            "kube-controller-manager": [*controlplane.controller_manager(paths), "--secure-port=0"],
            "kube-scheduler": [*controlplane.scheduler(paths), "--secure-port=0"],
            "kwok": [
                f"{paths.bin}/kwok",
                f"--kubeconfig={paths.kubeconfig}",
                f"--config={paths.conf}/kwok.yaml",
                f"--cidr={POD_NETWORK}",
                "--manage-all-nodes",
            ],
        }


@contextlib.contextmanager
def control_plane(root: Path, stages: Sequence[Resource] = (), *, nodes: int = 1) -> Iterator[ControlPlane]:
    """A control plane with simulated nodes, ready; ended with the block.

    Args:
        root: A folder that is not there yet.
        stages: kwok's Stages for pods; without any, a pod runs at once and a Job's pod succeeds at once.
        nodes: How many nodes to play; without any, neither kwok nor the scheduler runs.
    """
    plane = ControlPlane(root, stages)
    plane.prepare()
    try:
        plane.start("etcd")
        plane.start("kube-apiserver")
        plane.wait_until_ready()
        plane.start("kube-controller-manager")
        if nodes:
            plane.start("kube-scheduler")
            plane.start("kwok")
            plane.apply(*(node(number) for number in range(nodes)))
        yield plane
    finally:
        plane.stop_all()


def node(number: int) -> Resource:
    """A node as large as a machine with eight GPUs and room for a thousand pods."""
    size = {"cpu": "4096", "memory": "64Ti", "ephemeral-storage": "64Ti", "pods": "1000", "nvidia.com/gpu": "1000"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"simulated-{number}", "labels": {"kubernetes.io/hostname": f"simulated-{number}"}},
        "status": {"allocatable": size, "capacity": size},
    }


def _established(crd: Resource) -> bool:
    """Whether it is served. A new one's conditions are null for a moment, over which kubectl's jsonpath stumbles."""
    conditions = crd.get("status", {}).get("conditions") or []
    return any((found["type"], found["status"]) == ("Established", "True") for found in conditions)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _always() -> tuple[Resource, Resource]:
    """A node becomes ready, and a deleted pod goes."""
    ready = _stage("node-is-ready", "Node", [_NEVER_READY], {"statusTemplate": _NODE_STATUS})
    return ready, _stage("pod-is-deleted", "Pod", [_DELETED], {"delete": True})


def _stage(name: str, kind: str, expressions: list[Resource], following: Resource) -> Resource:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": expressions},
            "next": following,
        },
    }


def pod_stage(
    name: str,
    labels: Mapping[str, str],
    container: str,
    phase: str,
    template: str,
    after_seconds: float = 0,
    *only: Resource,
) -> Resource:
    """One step of a pod's life, as a kwok Stage.

    Args:
        name: The Stage's.
        labels: The pods it is about.
        container: Name of the pod's only container.
        phase: The pod's phase before: Pending (and scheduled) or Running.
        template: The container's state afterwards, as YAML flow; `{{ Now }}` is the time.
        after_seconds: How long the pod stays in the phase before.
        only: More that must be true of the pods: a jq query as `key`, `operator` and `values`.
    """
    next_phase = {"Pending": "Running", "Running": "Succeeded" if "exitCode: 0" in template else "Failed"}[phase]
    running = phase == "Pending"
    conditions = "".join(
        f"\n- {{type: {kind}, status: '{running}', lastTransitionTime: {{{{ Now | Quote }}}}}}"
        for kind in ("Initialized", "Ready", "ContainersReady")
    )
    address = (
        "\npodIP: {{ index (PodIPsWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace) 0 }}"
    )
    status = (
        f"phase: {next_phase}\nconditions:{conditions}\ncontainerStatuses:\n"
        f"- {{name: {container}, image: simulated, imageID: '', restartCount: 0, ready: {str(running).lower()},"
        f" state: {template}}}" + (address + "\nstartTime: {{ Now | Quote }}" if running else "")
    )
    expressions: list[Resource] = [
        {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"},
        {"key": ".status.phase", "operator": "In", "values": [phase]},
        *only,
    ]
    stage = _stage(name, "Pod", expressions, {"statusTemplate": status})
    stage["spec"]["selector"]["matchLabels"] = dict(labels)
    stage["spec"]["delay"] = {"durationMilliseconds": int(after_seconds * 1000)}
    return stage
