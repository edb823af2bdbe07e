"""The kubelet and kube-proxy: what each is started with, and why."""

import json

from localcluster import dns, process, topology
from localcluster.namespaces import Node
from localcluster.state import Paths


def _kubelet_config(paths: Paths) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": topology.NODE_IP,
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{paths.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{paths.pki}/kubelet-serving.crt",
        "tlsPrivateKeyFile": f"{paths.pki}/kubelet-serving.key",
        "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
        "volumePluginDir": f"{paths.run}/flex",
        "nodeStatusUpdateFrequency": "4s",
        "maxPods": 60,
        **_DNS,
        "resolvConf": f"{paths.conf}/resolv.conf",
        **_CGROUPS,
        **_SMALL_MACHINE,
    }


# With an empty resolv.conf containerd would copy the machine's, unreachable from a pod: each look-up would take 10 s.
_DNS: dict[str, object] = {"clusterDNS": [dns.ADDRESS], "clusterDomain": dns.DOMAIN}

_CGROUPS: dict[str, object] = {
    "failCgroupV1": False,  # since 1.35 the kubelet refuses v1 unless told; means nothing on v2
    "cgroupDriver": "cgroupfs",  # there need not be a systemd
    "cgroupRoot": f"/{topology.CGROUP}",
    "cgroupsPerQOS": True,  # real cgroups per pod: limits hold, and OOMKilled is seen
    "enforceNodeAllocatable": [],  # but no limit on the pods' common parent
    "oomScoreAdj": 0,  # the default, -999, needs CAP_SYS_RESOURCE
}

_SMALL_MACHINE: dict[str, object] = {
    "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},  # tests kill the operator twenty times
    "failSwapOn": False,
    "evictionHard": {
        "memory.available": "50Mi",
        "nodefs.available": "1%",
        "imagefs.available": "1%",
        "nodefs.inodesFree": "1%",
        "imagefs.inodesFree": "1%",
    },
    "imageGCHighThresholdPercent": 100,  # never delete an image: there is nowhere to pull it from again
    "imageGCLowThresholdPercent": 99,
}


def _proxy_config(paths: Paths) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{paths.conf}/proxy.kubeconfig"},
        "mode": "iptables",
        "iptables": {"minSyncPeriod": "100ms"},  # a ready pod is in its Service soon
        "clusterCIDR": topology.POD_NETWORK,
        "hostnameOverride": topology.NODE,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        # 0 leaves the limits alone: only the machine's own network namespace may write them
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _kubelet(paths: Paths) -> str:
    return f"{paths.bin}/kubelet"


def start(node: Node) -> None:
    """Start kubelet and kube-proxy."""
    paths = node.paths
    (paths.conf / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (paths.conf / "kubelet.json").write_text(json.dumps(_kubelet_config(paths), indent=2))
    (paths.conf / "proxy.json").write_text(json.dumps(_proxy_config(paths), indent=2))
    node.start(
        [
            _kubelet(paths),
            f"--config={paths.conf}/kubelet.json",
            f"--kubeconfig={paths.conf}/kubelet.kubeconfig",
            f"--hostname-override={topology.NODE}",
            f"--node-ip={topology.NODE_IP}",
            f"--cert-dir={paths.pki}",
            "--v=2",
        ]
    )
    node.start([f"{paths.bin}/kube-proxy", f"--config={paths.conf}/proxy.json"])


def ready(paths: Paths) -> bool:
    """Tell whether the API server answers and calls the node Ready."""
    condition = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    return process.attempt([*_kubectl(paths), "get", "node", topology.NODE, "-o", condition]).stdout == "True"


def _kubectl(paths: Paths) -> list[str]:
    options = [f"--kubeconfig={paths.kubeconfig}", f"--cache-dir={paths.kubectl_cache}", "--request-timeout=5s"]
    return [f"{paths.bin}/kubectl", *options]


def wait_until_usable(node: Node) -> None:
    """Wait until the node is Ready, and namespace default has its ServiceAccount: without it no pod can be made."""
    paths = node.paths
    account = [*_kubectl(paths), "-n", "default", "get", "serviceaccount", "default"]

    def alive() -> None:
        for name in ("kubelet", "kube-proxy", "kube-controller-manager", "kube-scheduler", "coredns"):
            node.require(f"{paths.bin}/{name}")

    log = node.log("kubelet")
    process.wait_until("the node to be Ready", lambda: ready(paths), timeout=120, check=alive, log=log)
    log = node.log("kube-controller-manager")
    process.wait_until(
        "the first ServiceAccount",
        lambda: process.attempt(account).returncode == 0,
        timeout=60,
        check=alive,
        log=log,
    )
