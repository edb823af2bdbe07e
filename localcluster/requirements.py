"""What this machine must have, asked before anything is started."""

import json
import os
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from localcluster import binaries, process, topology
from localcluster.errors import MissingRequirementsError
from localcluster.state import Paths

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))  # Debian's, everybody else's
CNI_PLUGINS = ("ptp", "host-local", "portmap", "loopback")
GO_VERSION = (1, 25)
MISSING_GO = "a Go toolchain of at least {}.{} on PATH (Debian's is older: use the official archive)".format(
    *GO_VERSION
)

# program -> the Debian package that brings it
RUN_TOOLS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setsid": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "openssl": "openssl",
    "gcc": "gcc",
}
IMAGE_TOOLS = {"buildah": "buildah", "skopeo": "skopeo", "debootstrap": "debootstrap", "tar": "tar"}
CNI_PACKAGE = "containernetworking-plugins"
ALL_PACKAGES = sorted({*RUN_TOOLS.values(), *IMAGE_TOOLS.values(), CNI_PACKAGE, "libc6-dev"})


@dataclass(frozen=True)
class Machine:
    """The questions asked of a machine; a test answers them differently."""

    which: Callable[[str], str | None] = lambda tool: shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    user: Callable[[], int] = os.geteuid
    system: Callable[[], str] = platform.system
    go_version: Callable[[], str] = lambda: process.attempt(["go", "env", "GOVERSION"]).stdout
    cni: Callable[[], Path | None] = lambda: cni_folder()  # noqa: PLW0108 - defined below
    capabilities: Callable[[], bool] = lambda: (
        process.attempt(["unshare", "--mount", "--net", "--pid", "--fork", "true"]).returncode == 0
    )


def cni_folder() -> Path | None:
    """Return the folder with every CNI plugin we use, if there is one."""
    return next((f for f in CNI_FOLDERS if all((f / plugin).exists() for plugin in CNI_PLUGINS)), None)


def check(paths: Paths, *, images: bool = False, machine: Machine | None = None) -> None:
    """Raise MissingRequirementsError with the full list, or return silently.

    Args:
        paths: Whose binaries decide whether Go is needed.
        images: Ask for the image builders as well.
        machine: Whom to ask; this machine when left out.
    """
    machine = machine or Machine()
    tools = {**RUN_TOOLS, **(IMAGE_TOOLS if images else {})}
    absent = {tool: package for tool, package in tools.items() if not machine.which(tool)}
    problems = [f"- `{tool}` is not on PATH (Debian package {package})" for tool, package in absent.items()]
    packages = set(absent.values())
    if machine.cni() is None:
        problems.append(f"- no folder with the CNI plugins {', '.join(CNI_PLUGINS)} (Debian package {CNI_PACKAGE})")
        packages.add(CNI_PACKAGE)
    problems += _problems_without_package(paths, machine, absent)
    if problems:
        raise MissingRequirementsError(
            "This machine cannot run the local cluster:\n" + "\n".join(problems), remedy=_remedy(packages)
        )


def _problems_without_package(paths: Paths, machine: Machine, absent: dict[str, str]) -> list[str]:
    """List what no package cures."""
    problems = []
    if machine.system() != "Linux":
        problems.append(f"- this is {machine.system()}; a node needs Linux namespaces and cgroups")
    if machine.user() != 0:
        problems.append(f"- the user is not root (uid {machine.user()}); a node needs namespaces, mounts and cgroups")
    elif "unshare" not in absent and not machine.capabilities():
        problems.append("- root may not create namespaces here (an unprivileged container?)")
    if binaries.missing(paths) and not _go_is_new_enough(machine):
        problems.append(f"- {MISSING_GO}")
    return problems


def _remedy(packages: set[str]) -> str:
    if not packages:
        return "Nothing was started."
    return (
        f"Get them, as root, with:\n    apt-get update && apt-get install -y --no-install-recommends "
        f"{' '.join(sorted(packages))}\nor: python -m localcluster requirements --install\nNothing was started."
    )


def _go_is_new_enough(machine: Machine) -> bool:
    if not machine.which("go"):
        return False
    found = re.match(r"go(\d+)\.(\d+)", machine.go_version().strip())
    return found is not None and tuple(map(int, found.groups())) >= GO_VERSION


def check_network() -> None:
    """Refuse when the machine already uses one of our fixed networks."""
    ours = [ip_network(n) for n in (topology.LINK_NETWORK, topology.POD_NETWORK, topology.SERVICE_NETWORK)]
    for route in json.loads(process.run(["ip", "-json", "route", "show", "table", "main"])):
        if route["dst"] == "default" or route.get("dev") == topology.HOST_LINK:
            continue
        if any(ip_network(route["dst"], strict=False).overlaps(network) for network in ours):
            raise MissingRequirementsError(
                f"This machine already routes {route['dst']} through {route.get('dev', '?')}; the local cluster uses "
                f"{', '.join(map(str, ours))}.",
                remedy="End the program that owns this route (another cluster?), then try again. Nothing was started.",
            )


def install(paths: Paths) -> None:
    """Install what Debian packages can bring."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise MissingRequirementsError("Installing needs root and apt-get.", remedy=_remedy(set(ALL_PACKAGES)))
    log = paths.build_logs / "apt.log"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    process.run_long("apt-get update", ["apt-get", "update"], log, env=env)
    command = ["apt-get", "install", "-y", "--no-install-recommends", *ALL_PACKAGES]
    process.run_long(f"installing {' '.join(ALL_PACKAGES)}", command, log, env=env)
