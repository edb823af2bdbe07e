"""Keys and certificates of one life of the cluster, made with openssl, and the kubeconfigs that carry them."""

import json
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from localcluster import process, topology
from localcluster.state import Paths

_DAYS = "30"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
_API_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
_API_ADDRESSES = (topology.NODE_IP, "127.0.0.1", topology.API_SERVICE_IP)


@dataclass(frozen=True)
class Leaf:
    """One certificate: who it names, what it is for, and under which names a server may be called."""

    name: str
    subject: str
    usage: str = "clientAuth"
    names: tuple[str, ...] = ()

    def extensions(self) -> str:
        """Return openssl's extension file.

        Key usage and key identifiers are there because Python >= 3.13 checks strictly, and would
        refuse the API server from inside pods without them.
        """
        lines = [
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            "subjectKeyIdentifier=hash",
            "authorityKeyIdentifier=keyid",
            f"extendedKeyUsage={self.usage}",
        ]
        if self.names:
            lines.append(f"subjectAltName={','.join(self.names)}")
        return "\n".join(lines)


SERVERS = (
    Leaf(
        "apiserver",
        "/CN=kube-apiserver",
        "serverAuth",
        (*(f"IP:{address}" for address in _API_ADDRESSES), *(f"DNS:{name}" for name in _API_NAMES)),
    ),
    Leaf(
        "kubelet-serving",
        f"/O=system:nodes/CN=system:node:{topology.NODE}",
        "serverAuth",
        (f"IP:{topology.NODE_IP}", f"DNS:{topology.NODE}"),
    ),
)

# Each gets a kubeconfig of its own, and only the rights its name has by RBAC.
CLIENTS = (
    Leaf("admin", "/O=system:masters/CN=admin"),
    Leaf("controller-manager", "/CN=system:kube-controller-manager"),
    Leaf("scheduler", "/CN=system:kube-scheduler"),
    Leaf("proxy", "/CN=system:kube-proxy"),
    Leaf("dns", "/CN=dns"),
    Leaf("kubelet", f"/O=system:nodes/CN=system:node:{topology.NODE}"),
)
API_TO_KUBELET = Leaf("apiserver-kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")


def create(paths: Paths, server: str = f"https://{topology.NODE_IP}:{topology.API_PORT}") -> None:
    """Make the authority, every certificate, the key that signs service-account tokens, and the kubeconfigs.

    Args:
        paths: Its folders `pki` (made here) and `conf` take them.
        server: The API server's URL in the kubeconfigs.
    """
    pki = paths.pki
    pki.mkdir(mode=0o700)
    process.run(
        ["openssl", "req", "-x509", *_NEW_KEY, "-keyout", f"{pki}/ca.key", "-out", f"{pki}/ca.crt", "-days", _DAYS,
         "-subj", "/CN=finetune-localcluster", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    )  # fmt: skip
    for leaf in (*SERVERS, *CLIENTS, API_TO_KUBELET):
        _sign(pki, leaf)
    process.run(["openssl", "genrsa", "-out", f"{pki}/service-accounts.key", "2048"])
    for client in CLIENTS:
        kubeconfig = paths.conf / f"{client.name}.kubeconfig"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(json.dumps(_kubeconfig(pki, client.name, server), indent=2))


def _sign(pki: Path, leaf: Leaf) -> None:
    stem = pki / leaf.name
    process.run(["openssl", "req", *_NEW_KEY, "-keyout", f"{stem}.key", "-out", f"{stem}.csr", "-subj", leaf.subject])
    Path(f"{stem}.ext").write_text(leaf.extensions())
    process.run(
        ["openssl", "x509", "-req", "-in", f"{stem}.csr", "-CA", f"{pki}/ca.crt", "-CAkey", f"{pki}/ca.key",
         "-CAcreateserial", "-days", _DAYS, "-out", f"{stem}.crt", "-extfile", f"{stem}.ext"]
    )  # fmt: skip


def _kubeconfig(pki: Path, user: str, server: str) -> dict[str, object]:
    """Return a kubeconfig with everything inside, so that it may be copied. JSON is YAML."""

    def data(file: str) -> str:
        return b64encode((pki / file).read_bytes()).decode()

    certificate = {"client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "finetune",
        "clusters": [{"name": "finetune", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
        "users": [{"name": user, "user": certificate}],
        "contexts": [{"name": "finetune", "context": {"cluster": "finetune", "user": user}}],
    }
