"""etcd, the API server, the controller-manager and the scheduler: what each is started with, and why."""

import json
from dataclasses import dataclass
from pathlib import Path

from localcluster import process, topology
from localcluster.namespaces import Node
from localcluster.state import Paths


@dataclass(frozen=True)
class Ports:
    """Where the control plane listens. In the node's own network namespace nobody else is in the way."""

    api: int = topology.API_PORT
    etcd: int = 2379
    etcd_peer: int = 2380


IN_THE_NODE = Ports()


def etcd(paths: Paths, ports: Ports = IN_THE_NODE) -> list[str]:
    """Return etcd's command line. It need not survive a power cut, so it never waits for the disk."""
    clients, peers = f"http://127.0.0.1:{ports.etcd}", f"http://127.0.0.1:{ports.etcd_peer}"
    return [
        f"{paths.bin}/etcd",
        "--name=finetune",
        f"--data-dir={paths.run}/etcd",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=finetune={peers}",
    ]


def apiserver(paths: Paths, ports: Ports = IN_THE_NODE) -> list[str]:
    """Return the API server's command line. Pod Security admission is on by default."""
    pki = paths.pki
    return [
        f"{paths.bin}/kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{ports.etcd}",
        f"--secure-port={ports.api}",
        f"--advertise-address={topology.NODE_IP}",  # the endpoint of Service "kubernetes": may not be loopback
        f"--service-cluster-ip-range={topology.SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",  # as everywhere: Pod Security decides, per namespace
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/service-accounts.key",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--audit-policy-file={paths.conf}/audit.json",
        f"--audit-log-path={paths.audit}",  # written before the answer is: a test may read it at once
        "--audit-log-maxsize=4096",  # MB: a new file at 100 MB would hide from a reader what was in the old one
    ]


def controller_manager(paths: Paths) -> list[str]:
    """Return the controller-manager's command line."""
    return [
        f"{paths.bin}/kube-controller-manager",
        f"--kubeconfig={paths.conf}/controller-manager.kubeconfig",
        "--use-service-account-credentials=true",  # each controller acts under its own name and rights
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--service-account-private-key-file={paths.pki}/service-accounts.key",
        f"--root-ca-file={paths.pki}/ca.crt",
        f"--flex-volume-plugin-dir={paths.run}/flex",  # its default lies outside the state folder
        "--kube-api-qps=200",  # with the default of 20, its 40 controllers take 4 s longer to start
        "--kube-api-burst=400",
    ]


def scheduler(paths: Paths) -> list[str]:
    """Return the scheduler's command line."""
    return [
        f"{paths.bin}/kube-scheduler",
        f"--kubeconfig={paths.conf}/scheduler.kubeconfig",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ]


def write_audit_policy(path: Path) -> None:
    """Write what is logged: every request by name; bodies where tests count and read the writes."""
    ours = [{"group": "finetune.dev"}, {"group": "batch", "resources": ["jobs", "jobs/status"]}]
    rules = [
        {"level": "None", "resources": [{"group": "coordination.k8s.io"}], "userGroups": ["system:nodes"]},
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*"]},
        {"level": "Request", "resources": ours, "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "Metadata"},
    ]
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
    path.write_text(json.dumps(policy, indent=2))


def start_api(node: Node) -> None:
    """Start etcd and the API server; other things can be done until it is ready."""
    write_audit_policy(node.paths.conf / "audit.json")
    node.start(etcd(node.paths))
    node.start(apiserver(node.paths))


def wait_for_api(node: Node) -> None:
    """Wait until the API server answers."""
    programs = (etcd(node.paths)[0], apiserver(node.paths)[0])
    ask = [f"{node.paths.bin}/kubectl", f"--kubeconfig={node.paths.kubeconfig}", "get", "--raw", "/readyz"]

    def alive() -> None:
        for program in programs:
            node.require(program)

    process.wait_until(
        "the API server to be ready",
        lambda: process.attempt(ask).returncode == 0,
        timeout=120,
        check=alive,
        log=node.log("kube-apiserver"),
    )


def start_controllers(node: Node) -> None:
    """Start what acts on the API server's objects."""
    node.start(controller_manager(node.paths))
    node.start(scheduler(node.paths))
