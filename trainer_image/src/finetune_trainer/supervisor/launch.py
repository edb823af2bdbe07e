"""The command line of the worker.

One process needs no torchrun: importing torch a second time takes 660 MB of the pod's memory and 3.5 to 4.2 s (measured
on two busy cores; 6 to 8.7 s without compiled bytecode), and stands between the worker and its exit status. From two
processes on torchrun starts them and ends all when one fails.
"""

import socket
import sys
from pathlib import Path

LOOPBACK = "127.0.0.1"  # a pod may have no DNS, and its own name may not resolve


def command(processes: int, run_file: Path, work_dir: Path) -> list[str]:
    """Return the command that starts `processes` workers on this node."""
    worker = ["-m", "finetune_trainer.worker", "--run-file", str(run_file), "--work-dir", str(work_dir)]
    if processes == 1:
        return [sys.executable, *worker]
    return [
        *[sys.executable, "-m", "finetune_trainer.supervisor.torchrun"],
        *["--nnodes", "1", "--node-rank", "0", "--nproc-per-node", str(processes)],
        *["--rdzv-backend", "static", "--master-addr", LOOPBACK, "--master-port", str(_free_port())],
        *["--local-addr", LOOPBACK],
        *worker,
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
