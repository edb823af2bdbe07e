"""The node: one pid, mount and network namespace whose PID 1 is the pause binary.

All programs and pods of the node live inside. When PID 1 dies the kernel kills the rest, and with the last
process go mounts, network links, routes and iptables rules: nothing has to be undone one by one.
"""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster import process
from localcluster.errors import DaemonDiedError
from localcluster.state import Paths

# What kubelet, CNI and containerd have hard-coded: shown to them as folders of ours.
HARD_CODED = ("/var/log/containers", "/var/log/pods", "/var/lib/kubelet", "/var/lib/cni")

# The kubelet sets three sysctls for the whole machine, or refuses to start. It is shown files that
# hold the wanted values already, and leaves the machine alone.
SYSCTLS = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}

# Programs of the node need no more than this; above all not this shell's proxies and credentials.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


def find(paths: Paths) -> "Node | None":
    """Return the living node, found by the file its PID 1 runs: no pid file can be stale."""
    pids = process.find(paths.init)
    return Node(paths, pids[0]) if pids else None


def create(paths: Paths) -> "Node":
    """Start PID 1 in its namespaces and prepare the mounts."""
    log = paths.log / "init.log"
    namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process.start_detached(["unshare", *namespaces, str(paths.init)], log, ENVIRONMENT)
    process.wait_until("the node's PID 1", lambda: bool(process.find(paths.init)), timeout=10, log=log)
    node = Node(paths, process.find(paths.init)[0])
    _prepare_mounts(paths, node)
    return node


def _prepare_mounts(paths: Paths, node: "Node") -> None:
    script = [
        "set -eu",
        "mount --make-rshared /",  # the kubelet wants a shared root (mountPropagation); this one is ours alone
        "mount -t tmpfs tmpfs /run",  # shim sockets, xtables.lock; and no foreign container engine in sight
    ]
    created = []
    for folder in HARD_CODED:
        ours = paths.run / "fs" / folder.strip("/").replace("/", "-")
        ours.mkdir(parents=True)
        if not Path(folder).exists():
            created.append(folder)
            Path(folder).mkdir(parents=True)
        script.append(f"mount --bind {ours} {folder}")
    (paths.run / "created-folders").write_text("\n".join(created))
    for name, value in SYSCTLS.items():
        fake = paths.run / "fs" / f"sysctl-{name.replace('/', '.')}"
        fake.write_text(f"{value}\n")
        script.append(f"mount --bind {fake} /proc/sys/{name}")
    node.shell("\n".join(script))


@dataclass(frozen=True)
class Node:
    """The living node: its PID 1 as this machine counts."""

    paths: Paths
    init: int

    def _enter(self) -> list[str]:
        # nsenter, not `ip netns exec`: that one mounts a new /sys, and hides every cgroup
        return ["nsenter", "--target", str(self.init), "--mount", "--net", "--pid", "--"]

    def shell(self, script: str) -> str:
        """Run a shell script inside."""
        return process.run([*self._enter(), "sh", "-c", script])

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        """Start a program that keeps running; its log is named after it.

        `setsid --fork` leaves it to the node's PID 1, so that nothing outside has to be waited for.
        """
        log = self.log(argv[0])
        with log.open("ab") as out:
            subprocess.run(
                [*self._enter(), "setsid", "--fork", *argv],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**ENVIRONMENT, **(env or {})}, check=True,
            )  # fmt: skip
        process.wait_until(f"{Path(argv[0]).name} to start", lambda: self._seen(argv[0]), timeout=5, log=log)

    def _seen(self, program: str) -> bool:
        """Tell whether the program was started: it runs, or it has already ended and left its reason in the log."""
        return bool(self.pids(program)) or bool(self.log(program).stat().st_size)

    def log(self, program: str) -> Path:
        """Return the log of a program."""
        return self.paths.log / f"{Path(program).name}.log"

    def pids(self, program: str) -> list[int]:
        """Return the program's processes in this node; pods, in pid namespaces of their own, do not count."""
        return process.find(program, namespace=process.pid_namespace(self.init))

    def require(self, program: str) -> None:
        """Raise when a program that should run does not."""
        if not self.pids(program):
            raise DaemonDiedError(f"{Path(program).name} ended by itself.", log=self.log(program))

    def stop(self, program: str) -> None:
        """End a program at once."""
        process.end(self.pids(program), signal.SIGKILL)

    def destroy(self) -> bool:
        """Kill PID 1, and with it everything inside; tell whether it is gone."""
        inside = self._everything()
        return process.end([self.init], signal.SIGKILL) and process.end(inside, signal.SIGKILL)

    def _everything(self) -> list[int]:
        """Return the processes of the node's own pid namespace, to know when the kernel has ended them."""
        namespace = process.pid_namespace(self.init)
        return [pid for pid in process.every() if namespace and process.pid_namespace(pid) == namespace]
