"""Kueue itself on a control plane of the tests: its release's manifests, its controller as a process, its webhooks.

The manifests come out of the Go module that the controller is built from, as `kubectl apply -k` would install them; but
there is no Deployment, the process has an administrator's rights, and the webhooks' Service leads to it on loopback.
https://kueue.sigs.k8s.io/docs/
"""

import base64
import json
import subprocess
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from localcluster import binaries
from localcluster.simulation import ControlPlane, free_ports
from localcluster.state import SOURCE, Paths
from tests.simulation.jobs import NAMESPACE, get, wait_for

HOME = "kueue-system"
FLAVOR = "simulated-nodes"
ON_NODE = {"kubernetes.io/hostname": "simulated-0"}
_MODULE = SOURCE / "go" / "kueue"
_LEFT_OUT = {"Deployment", "APIService"}
_SERVICE = "kueue-webhook-service"


class Kueue:
    """The controller, ready inside the block."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        binaries.ensure(Paths.default(), ("kueue",))
        self._plane, self._folder = plane, folder
        self._webhook, self._health = free_ports(2)
        self._configuration: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **configuration: Any) -> None:
        """Start the controller and wait until its webhooks answer; `configuration` is laid over the release's."""
        (self._folder / "kueue.yaml").write_text(json.dumps(self._configuration | configuration))
        with (self._folder / "kueue.log").open("ab") as out:
            # whatever ends these tests ends the program too
            command = ["setpriv", "--pdeathsig", "KILL", f"{self._plane.paths.bin}/kueue"]
            command += [f"--config={self._folder}/kueue.yaml", f"--kubeconfig={self._plane.paths.kubeconfig}"]
            command += ["--feature-gates=VisibilityOnDemand=false"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        wait_for("Kueue to make its certificate", self._mounted)
        wait_for("Kueue to be ready", self._ready)

    def kill(self) -> None:
        """End the controller, as a node that fails would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        manifests = _manifests(self._plane)
        self._plane.apply(*(self._fitted(each) for each in manifests if each["kind"] not in _LEFT_OUT))
        self._configuration = self._fitted_configuration(manifests)
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _fitted_configuration(self, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        (shipped,) = (each["data"] for each in manifests if each["kind"] == "ConfigMap")
        configuration: dict[str, Any] = yaml.safe_load(shipped["controller_manager_config.yaml"])
        configuration["health"]["healthProbeBindAddress"] = f"127.0.0.1:{self._health}"
        configuration["leaderElection"] = {"leaderElect": False}
        configuration["metrics"]["bindAddress"] = "0"
        configuration["webhook"] |= {"host": "127.0.0.1", "port": self._webhook, "certDir": f"{self._folder}/serving"}
        return configuration

    def _fitted(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The manifest as it is, but for where the API server finds the webhooks."""
        if manifest["kind"] == "Service" and manifest["metadata"]["name"] == _SERVICE:
            return {**manifest, "spec": {"type": "ExternalName", "externalName": "localhost"}}
        for webhook in manifest.get("webhooks", []):
            webhook["clientConfig"]["service"]["port"] = self._webhook
        return manifest

    def _mounted(self) -> bool:
        """Do as a kubelet for a pod with this Secret: Kueue makes its certificate, and waits for the files."""
        secret = get(self._plane, "secret", "kueue-webhook-server-cert", namespace=HOME).get("data", {})
        folder = self._folder / "serving"
        folder.mkdir(exist_ok=True)
        for name, data in secret.items():
            (folder / name).write_bytes(base64.b64decode(data))
        return "tls.crt" in secret

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "kueue.log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health}/readyz", timeout=5):
                return True
        except OSError:  # an HTTPError, too
            return False


def _manifests(plane: ControlPlane) -> list[dict[str, Any]]:
    """Everything that the release installs."""
    download = ["go", "mod", "download", "-json", "sigs.k8s.io/kueue"]
    module = json.loads(subprocess.run(download, cwd=_MODULE, check=True, capture_output=True, text=True).stdout)
    return list(yaml.load_all(plane.kubectl("kustomize", f"{module['Dir']}/config/default"), yaml.CSafeLoader))


def queue(name: str, *, gpus: int, **cluster_queue: Any) -> list[dict[str, Any]]:
    """A queue for the jobs of these tests: quota for so many GPUs, and for as many processors as anybody wants.

    Args:
        name: Of the LocalQueue, and of the ClusterQueue behind it.
        gpus: How many may be in use at once.
        cluster_queue: More of the ClusterQueue's spec.
    """
    api = {"apiVersion": "kueue.x-k8s.io/v1beta2"}
    quotas = {"cpu": 1000, "memory": "10Ti", "nvidia.com/gpu": gpus}
    flavor = {"name": FLAVOR, "resources": [{"name": key, "nominalQuota": quota} for key, quota in quotas.items()]}
    return [
        {**api, "kind": "ResourceFlavor", "metadata": {"name": FLAVOR}, "spec": {"nodeLabels": ON_NODE}},
        {
            **api,
            "kind": "ClusterQueue",
            "metadata": {"name": name},
            "spec": {
                "namespaceSelector": {},
                "resourceGroups": [{"coveredResources": list(quotas), "flavors": [flavor]}],
                "preemption": {"withinClusterQueue": "LowerPriority"},
                **cluster_queue,
            },
        },
        {
            **api,
            "kind": "LocalQueue",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"clusterQueue": name},
        },
    ]


def priority(name: str, value: int) -> dict[str, Any]:
    """A WorkloadPriorityClass."""
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "WorkloadPriorityClass",
        "metadata": {"name": name},
        "value": value,
    }
