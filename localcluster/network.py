"""One veth pair joins machine and node; pods are routed behind the node.

The machine reaches API server, pods and ClusterIPs; pods reach servers on the machine's end of the pair.
Pods have no internet. The machine's own iptables and ip_forward stay as they are.
"""

import json
from pathlib import Path

from localcluster import process, topology
from localcluster.namespaces import Node


def connect(node: Node) -> None:
    """Join the node to the machine. The links and routes vanish with the node's network namespace."""
    link, peer = topology.HOST_LINK, topology.NODE_LINK
    for command in (
        f"ip link add {link} type veth peer name {peer} netns {node.init}",
        f"ip addr add {topology.HOST_IP}/30 dev {link}",
        f"ip link set {link} up",
    ):
        process.run(command.split())
    node.shell(
        f"""set -eu
        ip link set lo up
        ip addr add {topology.NODE_IP}/30 dev {peer}
        ip link set {peer} up
        ip route add default via {topology.HOST_IP}  # kubelet and API server insist on a default route
        echo 1 >/proc/sys/net/ipv4/ip_forward  # this network namespace's own"""
    )
    for network in (topology.POD_NETWORK, topology.SERVICE_NETWORK):
        process.run(["ip", "route", "add", network, "via", topology.NODE_IP])


def disconnect() -> None:
    """Remove the machine's end of the pair, if a half-done `up` left it."""
    process.attempt(["ip", "link", "delete", topology.HOST_LINK])


def write_cni(folder: Path) -> None:
    """Write the pod network's configuration.

    `ptp`, not `bridge`: pods are routed, so that pod -> ClusterIP -> pod passes iptables without the
    br_netfilter module. With a bridge such replies skip the translation back, and the pod waits in vain.
    """
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni-ipam",  # the node's own tmpfs: addresses are forgotten with the node
        "ranges": [[{"subnet": topology.POD_NETWORK}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": True, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    folder.mkdir(parents=True)
    content = {"cniVersion": "0.4.0", "name": "finetune", "plugins": plugins}
    (folder / "10-finetune.conflist").write_text(json.dumps(content, indent=2))
