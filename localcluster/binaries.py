"""Build the cluster's programs from their Go modules, once per set of versions.

Measured on two cores, nothing cached: see the README of this folder. The versions are in `go/*/go.mod`,
their checksums in go.sum, so the folder name (a hash of both) says exactly what is inside.
"""

import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from localcluster import console, process, requirements
from localcluster.errors import LocalClusterError
from localcluster.state import SOURCE, Paths

_VERSION_VARIABLES = "k8s.io/component-base/version"


@dataclass(frozen=True)
class Module:
    """One go.mod and the programs built from it in one go, so that they share compiled packages.

    Attributes:
        name: Its folder below `go/`.
        programs: File name -> import path of the main package.
        stamps: Linker variable -> the Go module whose version it takes, and the format over version, major, minor.
    """

    name: str
    programs: dict[str, str]
    stamps: dict[str, tuple[str, str]]


_KUBERNETES = "k8s.io/kubernetes"
_KUBERNETES_NAMES = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")

MODULES = (
    Module(
        "kubernetes",
        {name: f"{_KUBERNETES}/cmd/{name}" for name in _KUBERNETES_NAMES},
        {
            f"{_VERSION_VARIABLES}.gitVersion": (_KUBERNETES, "v{version}"),
            f"{_VERSION_VARIABLES}.gitMajor": (_KUBERNETES, "{major}"),
            f"{_VERSION_VARIABLES}.gitMinor": (_KUBERNETES, "{minor}"),
            f"{_VERSION_VARIABLES}.gitTreeState": (_KUBERNETES, "clean"),
        },
    ),
    Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, {}),
    Module(
        "tools",
        {"versitygw": "github.com/versity/versitygw/cmd/versitygw", "helm": "helm.sh/helm/v4/cmd/helm"},
        {
            "main.Version": ("github.com/versity/versitygw", "v{version}"),
            "helm.sh/helm/v4/internal/version.version": ("helm.sh/helm/v4", "v{version}"),
        },
    ),
)


def ensure(paths: Paths) -> Path:
    """Return the folder with every binary, building it first where it is missing."""
    if requirements.binaries_present(paths):
        return paths.bin
    console.say(f"Building the cluster's programs into {paths.bin}: 6 to 12 minutes on two cores, once.")
    paths.bin.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in paths.bin.parent.glob("building-*"):
        shutil.rmtree(abandoned)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="building-", dir=paths.bin.parent) as building:
        for module in MODULES:
            _build(module, Path(building), paths.build_logs / f"go-{module.name}.log")
        _publish(Path(building), paths.bin)
    console.say(f"Built {sum(len(m.programs) for m in MODULES)} programs in {time.monotonic() - began:.0f} s.")
    return paths.bin


def _build(module: Module, target: Path, log: Path) -> None:
    """Run one `go build` for all programs of a module: `go build -o folder/` names each after its package."""
    log.unlink(missing_ok=True)
    flags = " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in _stamps(module).items())])
    packages = list(module.programs.values())
    output = f"{target}/" if len(packages) > 1 else str(target / next(iter(module.programs)))
    process.run_long(
        f"building {', '.join(module.programs)}",
        ["go", "build", "-v", "-mod=readonly", "-trimpath", "-ldflags", flags, "-o", output, *packages],
        log,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
        cwd=SOURCE / "go" / module.name,
    )


def _stamps(module: Module) -> dict[str, str]:
    text = (SOURCE / "go" / module.name / "go.mod").read_text()
    return {
        variable: template.format(**_version(text, dependency))
        for variable, (dependency, template) in module.stamps.items()
    }


def _version(go_mod: str, dependency: str) -> dict[str, str]:
    """Return the version that a go.mod requires, without its v, in parts."""
    found = re.search(rf"^\s*(?:require )?{re.escape(dependency)} v((\d+)\.(\d+)\S*)", go_mod, re.MULTILINE)
    if not found:
        raise LocalClusterError(f"go.mod requires no {dependency}.")
    return dict(zip(("version", "major", "minor"), found.groups(), strict=True))


def _publish(building: Path, target: Path) -> None:
    """Put the finished folder in its place in one step, so that a half-built one is never used."""
    (building / "complete").touch()
    building.chmod(0o755)
    if target.exists():
        shutil.rmtree(target)
    building.rename(target)
