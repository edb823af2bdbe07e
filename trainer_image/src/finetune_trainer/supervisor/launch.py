"""The command line of the worker.

One process needs no torchrun: importing torch a second time takes 660 MB of the pod's memory and 3.5 to 4.2 s (measured
on two busy cores; 6 to 8.7 s without compiled bytecode), and stands between the worker and its exit status. From two
processes on torchrun starts them and ends all when one fails.
"""

import socket
import sys
from pathlib import Path

from finetune_trainer.supervisor.place import LOOPBACK, Place


def command(processes: int, run_file: Path, work_dir: Path, place: Place | None = None) -> list[str]:
    """Return the command that starts `processes` workers on this node; see `rank_of` for a single one among others."""
    place = place or Place()
    worker = ["-m", "finetune_trainer.worker", "--run-file", str(run_file), "--work-dir", str(work_dir)]
    if processes == 1:
        return [sys.executable, *worker]
    return [
        *[sys.executable, "-m", "finetune_trainer.supervisor.torchrun"],
        *["--nnodes", str(place.nodes), "--node-rank", str(place.node), "--nproc-per-node", str(processes)],
        *["--rdzv-backend", "static", "--master-addr", place.host],
        *["--master-port", str(place.master_port if place.nodes > 1 else _free_port())],
        *(["--local-addr", LOOPBACK] if place.nodes == 1 else []),
        *worker,
    ]


def rank_of(processes: int, place: Place) -> dict[str, str]:
    """What torchrun would put into the environment of the only process of a node that has peers elsewhere."""
    if processes > 1 or place.nodes == 1:
        return {}
    return {
        "RANK": str(place.node),
        "WORLD_SIZE": str(place.nodes),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": place.host,
        "MASTER_PORT": str(place.master_port),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
