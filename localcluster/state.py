"""Where things lie: one state folder, and who may change it at a time."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localcluster import console

DEFAULT_DIR = "/var/lib/finetune-localcluster"  # short, for unix sockets; not an overlay, for containerd
USER_DIR = "~/.cache/finetune-localcluster"  # for who is not root: no cluster, but binaries and S3 servers
SOURCE = Path(__file__).parent
REPOSITORY = SOURCE.parent
GO_MODULES = ("kubernetes", "etcd", "dns", "tools", "simulation", "kueue", "checks")


def modules_hash() -> str:
    """Return a short hash of every go.mod, go.sum and Go file here: other versions are other binaries."""
    digest = hashlib.sha256()
    for module in GO_MODULES:
        folder = SOURCE / "go" / module
        for path in (folder / "go.mod", folder / "go.sum", *sorted(folder.rglob("*.go"))):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Paths:
    """The state folder and what is in it.

    Attributes:
        root: The folder; `LOCALCLUSTER_DIR` when set.
    """

    root: Path

    @classmethod
    def default(cls) -> "Paths":
        """Return the paths for this environment."""
        default = DEFAULT_DIR if os.geteuid() == 0 else USER_DIR
        return cls(Path(os.environ.get("LOCALCLUSTER_DIR") or default).expanduser().resolve())

    @property
    def bin(self) -> Path:
        """Binaries built from the Go modules as they are now."""
        return self.root / "bin" / modules_hash()

    @property
    def images(self) -> Path:
        """Image builds: layer store, layouts, base root."""
        return self.root / "images"

    @property
    def store(self) -> Path:
        """Images of containerd; kept by `down`."""
        return self.root / "containerd"

    @property
    def run(self) -> Path:
        """One life of the cluster; removed by `down`."""
        return self.root / "run"

    @property
    def log(self) -> Path:
        """One log per program, and `audit.jsonl`."""
        return self.run / "log"

    @property
    def failed_logs(self) -> Path:
        """The logs of the last `up` that failed."""
        return self.root / "logs-last-failure"

    @property
    def build_logs(self) -> Path:
        """Logs of builds: binaries and images."""
        return self.root / "logs-build"

    @property
    def pki(self) -> Path:
        """Keys and certificates of this life."""
        return self.run / "pki"

    @property
    def conf(self) -> Path:
        """Configuration files, written anew by each `up`."""
        return self.run / "conf"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.conf / "admin.kubeconfig"

    @property
    def kubectl_cache(self) -> Path:
        """What kubectl remembers of this life's API server; beside the home directory's, where it would go stale."""
        return self.run / "kubectl-cache"

    @property
    def audit(self) -> Path:
        """The API server's audit log, one JSON object a line."""
        return self.log / "audit.jsonl"

    @property
    def containerd_socket(self) -> Path:
        """Where containerd answers, from outside the node too."""
        return self.run / "containerd.sock"

    @property
    def init(self) -> Path:
        """The pause binary; as a process of the machine it is the node's PID 1."""
        return self.root / "pause"

    @property
    def s3(self) -> Path:
        """The S3 server's folder: `data/` and its credentials."""
        return self.run / "s3"

    @contextmanager
    def exclusive(self, part: str) -> Iterator[None]:
        """Hold a part of the state folder alone; wait, and say so, while another command works on it.

        The parts: `cluster` (run/), `binaries`, `images` (the builds), `layout` (what builds hand to the cluster).
        Who needs several takes them in this order.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / f"lock-{part}").open("a") as lock:
            heartbeat = console.Heartbeat(f"waiting for another command to release {lock.name}", first=0.5)
            while not _try_lock(lock.fileno()):
                heartbeat.wait()
            yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
