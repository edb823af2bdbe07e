"""CoreDNS: gives Services, and the pods of headless ones, their names. Any other name is refused at once."""

from localcluster import process, topology
from localcluster.namespaces import Node
from localcluster.state import Paths

ADDRESS = topology.NODE_IP
DOMAIN = "cluster.local"
_ROLE = "localcluster-dns"
_READS = "services,namespaces,endpointslices.discovery.k8s.io"


def start(node: Node) -> None:
    """Let its user read what has names, and start it; the API server is ready."""
    paths = node.paths
    _kubectl(paths, "create", "clusterrole", _ROLE, "--verb=list,watch", f"--resource={_READS}")
    _kubectl(paths, "create", "clusterrolebinding", _ROLE, f"--clusterrole={_ROLE}", "--user=dns")
    corefile = paths.conf / "Corefile"
    # ttl 0: a pod that replaces another is found under its name at once
    corefile.write_text(
        f"{DOMAIN}:53 {{\n  errors\n  kubernetes {DOMAIN} {{\n    kubeconfig {paths.conf}/dns.kubeconfig\n"
        "    ttl 0\n  }\n}\n"
    )
    node.start([f"{paths.bin}/coredns", f"-conf={corefile}"])


def _kubectl(paths: Paths, *arguments: str) -> None:
    process.run([f"{paths.bin}/kubectl", f"--kubeconfig={paths.kubeconfig}", *arguments])
