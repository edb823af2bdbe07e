"""containerd of the node: its configuration, and its images."""

import shutil

from localcluster import pause, process, requirements, topology
from localcluster.namespaces import Node
from localcluster.state import Paths

PROGRAM = "/usr/bin/containerd"


def _config(paths: Paths) -> str:
    """Return containerd's configuration.

    restrict_oom_score_adj: the kubelet asks for -998 for sandboxes; without CAP_SYS_RESOURCE nobody may lower
    it, and runc would fail to start every one ("can't get final child's PID from pipe: EOF").
    SystemdCgroup: there need not be a systemd; it must agree with the kubelet's cgroupDriver.
    """
    return f"""version = 2
root = "{paths.store}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{paths.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{topology.PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{requirements.cni_folder()}"
    conf_dir = "{paths.conf}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def start(node: Node) -> None:
    """Start containerd with its images of earlier lives, and none of their containers."""
    (node.paths.conf / "containerd.toml").write_text(_config(node.paths))
    _forget_state(node.paths)
    _start(node)
    if containers := ctr(node.paths, "containers", "list", "--quiet").split():
        # `down` kills the node whole, so records of its containers are left in the store. Kubernetes no longer
        # knows them; containerd has read them at start, so it starts once more without.
        for container in containers:
            ctr(node.paths, "containers", "delete", container)
        node.stop(_program())
        _forget_state(node.paths)
        _start(node)
    archive = node.paths.run / "pause.tar"
    pause.write_image(node.paths, archive)
    ctr(node.paths, "images", "import", str(archive))
    ctr(node.paths, "images", "label", topology.PAUSE_IMAGE, "io.cri-containerd.pinned=pinned")


def _program() -> str:
    return shutil.which("containerd") or PROGRAM


def _start(node: Node) -> None:
    node.start([_program(), "--config", f"{node.paths.conf}/containerd.toml"])
    process.wait_until(
        "containerd to answer",
        lambda: process.attempt(command(node.paths, "version")).returncode == 0,
        timeout=30,
        check=lambda: node.require(_program()),
        log=node.log(_program()),
    )


def _forget_state(paths: Paths) -> None:
    """Remove what containerd remembers of running containers; the images lie beside it."""
    for folder in ("io.containerd.grpc.v1.cri", "io.containerd.runtime.v2.task"):
        shutil.rmtree(paths.store / folder, ignore_errors=True)


def command(paths: Paths, *arguments: str) -> list[str]:
    """Return a ctr command line, in the namespace that Kubernetes uses."""
    return ["ctr", "--address", str(paths.containerd_socket), "--namespace", "k8s.io", *arguments]


def ctr(paths: Paths, *arguments: str) -> str:
    """Run ctr and return its output."""
    return process.run(command(paths, *arguments))
