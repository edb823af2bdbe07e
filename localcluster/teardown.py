"""Take down whatever is there: a whole cluster, or any half of one. Nothing here asks how it came to be."""

import shutil
from contextlib import suppress
from pathlib import Path

from localcluster import cgroups, console, namespaces, network, process, s3
from localcluster.errors import LocalClusterError
from localcluster.state import Paths


def tear_down(paths: Paths) -> bool:
    """Stop every process, then remove what the kernel does not remove by itself; tell whether there was anything."""
    something = paths.run.exists()
    while node := namespaces.find(paths):
        something = True
        if not node.destroy():
            raise LocalClusterError(
                f"The node's processes did not end within 10 s of SIGKILL (PID 1 of the node is {node.init}).",
                remedy="A process hangs in the kernel; see `ps -eo pid,stat,wchan,args`, then run `down` again.",
            )
    _stop_s3(paths)
    network.disconnect()
    left = cgroups.remove()
    if left:
        raise LocalClusterError(
            f"Cgroups are left: {', '.join(map(str, left))}.",
            remedy="A process is still inside (see its cgroup.procs); end it, then run `down` again.",
        )
    _remove_created_folders(paths)
    if paths.run.exists():
        shutil.rmtree(paths.run)
    return something


def _stop_s3(paths: Paths) -> None:
    """Stop the server we know of, and one that was started without being written down."""
    with suppress(ValueError, TypeError):  # a half-written credentials file
        if server := s3.load(paths.s3):
            server.stop()
    for pid in process.find(paths.bin / "versitygw", argument=str(paths.s3)):
        s3.S3Server(paths.s3, "", "", "", pid).stop()


def _remove_created_folders(paths: Paths) -> None:
    """Remove the mount points that `up` had to make, where they are still empty."""
    with suppress(FileNotFoundError):
        for folder in (paths.run / "created-folders").read_text().split():
            # Removing a mount point undoes the mount in every other namespace: another cluster may be using it.
            if not any(f" {folder} " in _mounts(pid) for pid in process.every()):
                with suppress(OSError):
                    Path(folder).rmdir()


def _mounts(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return ""


def keep_logs(paths: Paths) -> Path | None:
    """Copy the logs of a failed `up` to where `down` does not reach them."""
    if not paths.log.exists():
        return None
    shutil.rmtree(paths.failed_logs, ignore_errors=True)
    shutil.copytree(paths.log, paths.failed_logs)
    if (s3_log := paths.s3 / "versitygw.log").exists():
        shutil.copy(s3_log, paths.failed_logs)
    return paths.failed_logs


def purge(paths: Paths) -> None:
    """Remove everything but the binaries."""
    for folder in (paths.store, paths.images, paths.failed_logs, paths.build_logs):
        if folder.exists():
            console.say(f"Removing {folder}.")
            shutil.rmtree(folder)
    console.say(f"The binaries stay in {paths.root / 'bin'}.")
