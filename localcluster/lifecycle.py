"""Up, down, status: the whole cluster as one thing. The command line and the tests both come in here."""

import os
import shutil
from dataclasses import dataclass

from localcluster import (
    binaries,
    cgroups,
    console,
    containerd,
    controlplane,
    dns,
    imagestore,
    namespaces,
    network,
    pause,
    pki,
    process,
    requirements,
    s3,
    teardown,
    topology,
    worker,
)  # fmt: skip
from localcluster.errors import LocalClusterError
from localcluster.state import Paths

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns", "kubelet", "kube-proxy")


@dataclass(frozen=True)
class Status:
    """What runs now.

    Attributes:
        programs: Each program of the cluster -> whether it runs.
        ready: The API server says so of itself and of the node.
    """

    programs: dict[str, bool]
    ready: bool

    @property
    def healthy(self) -> bool:
        """Tell whether the cluster can be used as it is."""
        return self.ready and all(self.programs.values())

    @property
    def anything(self) -> bool:
        """Tell whether there is something to take down."""
        return any(self.programs.values())


def up(paths: Paths | None = None) -> None:
    """Bring the cluster up; say so when it already is; clean up what a broken one left."""
    paths = paths or Paths.default()
    requirements.check(paths)
    binaries.ensure(paths)
    with paths.exclusive("cluster"):
        if status(paths).healthy:
            console.say("The cluster is up already.")
            imagestore.load(paths)
            return
        pause.ensure(paths)
        if teardown.tear_down(paths):
            console.say("Cleaned up what an earlier cluster had left.")
        requirements.check_network()
        try:
            _start(paths)
        except BaseException as error:
            kept = teardown.keep_logs(paths)
            console.say(f"Taking down the half-started cluster{f'; its logs are in {kept}' if kept else ''}.")
            teardown.tear_down(paths)
            if isinstance(error, LocalClusterError) and error.log and kept:
                error.log = kept / error.log.name
            raise


def _start(paths: Paths) -> None:
    """Start everything, in the order in which each needs the one before."""
    for folder in (paths.run, paths.log, paths.conf):
        folder.mkdir(parents=True)
    paths.run.chmod(0o700)
    node = namespaces.create(paths)
    network.connect(node)
    network.write_cni(paths.conf / "cni")
    pki.create(paths)
    console.say("The node's namespaces, network and certificates are there.")
    controlplane.start_api(node)
    cgroups.create()
    containerd.start(node)
    console.say("containerd answers.")
    controlplane.wait_for_api(node)
    console.say("The API server is ready.")
    controlplane.start_controllers(node)
    dns.start(node)
    worker.start(node)
    server = s3.start_server(paths.s3, topology.HOST_IP)
    console.say(f"The S3 server answers at {server.endpoint}, with buckets {', '.join(topology.BUCKETS)}.")
    imagestore.load(paths)
    worker.wait_until_usable(node)
    console.say('The cluster is usable: eval "$(python -m localcluster env)"')


def down(paths: Paths | None = None, *, purge: bool = False) -> None:
    """Take everything down, however much of it there is."""
    paths = paths or Paths.default()
    with paths.exclusive("cluster"):
        console.say("The cluster is down." if teardown.tear_down(paths) else "There was nothing to take down.")
        if purge:
            with paths.exclusive("images"), paths.exclusive("layout"):
                teardown.purge(paths)


def status(paths: Paths | None = None) -> Status:
    """Look at the processes, then ask the API server."""
    paths = paths or Paths.default()
    node = namespaces.find(paths)
    server = s3.load(paths.s3)
    programs = {name: bool(node and node.pids(str(paths.bin / name))) for name in PROGRAMS}
    programs["containerd"] = bool(node and node.pids(shutil.which("containerd") or containerd.PROGRAM))
    programs["versitygw"] = bool(server and server.running())
    return Status(programs, all(programs.values()) and worker.ready(paths))


def environment(paths: Paths | None = None) -> dict[str, str]:
    """Return what a shell needs to use the cluster: kubectl, helm and any S3 client work with it as they are."""
    paths = paths or Paths.default()
    server = s3_server(paths)
    path = os.environ.get("PATH", os.defpath)
    ours = str(paths.bin)
    if ours not in path.split(os.pathsep):
        path = f"{ours}{os.pathsep}{path}"
    return {
        "KUBECONFIG": str(paths.kubeconfig),
        "KUBECACHEDIR": str(paths.kubectl_cache),
        "PATH": path,
        **server.environment(),
    }


def s3_server(paths: Paths) -> s3.S3Server:
    """Return the cluster's S3 server; raise when the cluster is not up."""
    server = s3.load(paths.s3)
    if not server or not server.running() or not paths.kubeconfig.exists():
        raise LocalClusterError("The cluster is not up.", remedy="Bring it up with: python -m localcluster up")
    return server


def kubectl(paths: Paths, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
    """Run kubectl as the administrator and return its output."""
    command = [str(paths.bin / "kubectl"), f"--kubeconfig={paths.kubeconfig}", f"--cache-dir={paths.kubectl_cache}"]
    command += arguments
    return process.run(command, stdin=stdin, timeout=timeout)
