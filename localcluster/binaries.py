"""Build the cluster's programs from their Go modules, once per set of versions.

The versions are in `go/*/go.mod`, their checksums in go.sum, so the folder's name, a hash of both and of our own Go
files, says exactly what is inside. Measured with nothing cached: 25 minutes of processor time, so 13 minutes on two
idle cores.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from localcluster import console, process
from localcluster.errors import LocalClusterError
from localcluster.state import SOURCE, Paths

_FASTER = ("-gcflags", "all=-dwarf=false")  # nobody debugs these; compiling takes a tenth less time
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
_KUEUE = "sigs.k8s.io/kueue"
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
    Module("dns", {"coredns": "."}, {}),
    Module(
        "tools",
        {"versitygw": "github.com/versity/versitygw/cmd/versitygw", "helm": "helm.sh/helm/v4/cmd/helm"},
        {
            "main.Version": ("github.com/versity/versitygw", "v{version}"),
            "helm.sh/helm/v4/internal/version.version": ("helm.sh/helm/v4", "v{version}"),
        },
    ),
    Module(
        "simulation",
        {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        {"sigs.k8s.io/kwok/pkg/consts.Version": ("sigs.k8s.io/kwok", "v{version}")},
    ),
    Module("kueue", {"kueue": f"{_KUEUE}/cmd/kueue"}, {f"{_KUEUE}/pkg/version.GitVersion": (_KUEUE, "v{version}")}),
    Module("checks", {"promtool": "github.com/prometheus/prometheus/cmd/promtool", "kstatus": "./kstatus"}, {}),
)

CLUSTER = ("kubernetes", "etcd", "dns", "tools")
"""What a cluster is made of; the other modules are for tests and benchmarks."""


def missing(paths: Paths, only: Collection[str] = CLUSTER) -> list[Module]:
    """Return those of the named modules of which a program is not built yet."""
    return [
        module
        for module in MODULES
        if module.name in only and not all((paths.bin / name).exists() for name in module.programs)
    ]


def ensure(paths: Paths, only: Collection[str] = CLUSTER) -> Path:
    """Return the folder with the programs, building first what is missing.

    Args:
        paths: The state folder.
        only: Names of modules. `tools` alone is enough for an S3 server.
    """
    with paths.exclusive("binaries"):
        todo = missing(paths, only)
        if todo:
            _build_all(paths, todo)
    return paths.bin


def _build_all(paths: Paths, modules: list[Module]) -> None:
    began = time.monotonic()
    console.say(f"Building programs into {paths.bin}, once: in all 10 to 15 minutes on two cores.")
    paths.bin.mkdir(parents=True, exist_ok=True)
    for abandoned in paths.bin.glob("building-*"):
        shutil.rmtree(abandoned)
    for module in modules:
        with tempfile.TemporaryDirectory(prefix="building-", dir=paths.bin) as building:
            _build(module, Path(building), paths.build_logs / f"go-{module.name}.log")
            for name in module.programs:  # each appears whole or not at all
                (Path(building) / name).rename(paths.bin / name)
    console.say(
        f"Built {sum(len(module.programs) for module in modules)} programs in {time.monotonic() - began:.0f} s."
    )


def _build(module: Module, target: Path, log: Path) -> None:
    """Run one `go build` for all programs of a module: `go build -o folder/` names each after its package."""
    log.unlink(missing_ok=True)
    flags = " ".join(["-s -w", *(f"-X {variable}={value}" for variable, value in _stamps(module).items())])
    packages = list(module.programs.values())
    output = f"{target}/" if len(packages) > 1 else str(target / next(iter(module.programs)))
    process.run_long(
        f"building {', '.join(module.programs)}",
        ["go", "build", "-v", "-mod=readonly", "-trimpath", *_FASTER, "-ldflags", flags, "-o", output, *packages],
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
