"""One cgroup above every pod's: apart from all else on the machine, and one tree to remove. v1 and v2."""

import os
import time
from contextlib import suppress
from pathlib import Path

from localcluster.topology import CGROUP

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb")


def create() -> None:
    """Make the parent, in each hierarchy that the kubelet uses."""
    if (ROOT / "cgroup.controllers").exists():
        for controller in _CONTROLLERS:
            with suppress(OSError):  # not every kernel has each
                (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
        (ROOT / CGROUP).mkdir(exist_ok=True)
        return
    for hierarchy in ROOT.iterdir():
        if hierarchy.is_dir() and not hierarchy.is_symlink() and hierarchy.name != "unified":
            (hierarchy / CGROUP).mkdir(exist_ok=True)


def remove(timeout: float = 10) -> list[Path]:
    """Remove the trees; a dying process may hold one for a moment. Return what is left."""
    deadline = time.monotonic() + timeout
    while (left := trees()) and time.monotonic() < deadline:
        for tree in left:
            for folder, _, _ in os.walk(tree, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()
        time.sleep(0.05)
    return left


def trees() -> list[Path]:
    """Return our cgroups that exist."""
    return [tree for tree in (ROOT / CGROUP, *ROOT.glob(f"*/{CGROUP}")) if tree.is_dir()]
