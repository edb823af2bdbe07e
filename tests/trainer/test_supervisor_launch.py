"""How the worker is started: directly where it is one process, by torchrun from two on."""

import subprocess
import sys
from pathlib import Path

from finetune_trainer.supervisor import launch

RANK = """
import os, signal, sys, time
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
os.write(1, " ".join([*[f"{name}={os.environ[name]}" for name in names], *sys.argv[1:], "\\n"]).encode())  # one piece
other = f"{__file__}.started"
if os.environ["RANK"] == "1":
    while not os.path.exists(other):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
open(other, "w").close()
time.sleep(300)
"""


def test_one_process() -> None:
    """One process is the worker itself: no launcher stands between it and PID 1."""
    command = launch.command(1, Path("/etc/run.json"), Path("/work"))
    worker = ["-m", "finetune_trainer.worker", "--run-file", "/etc/run.json", "--work-dir", "/work"]
    assert command == [sys.executable, *worker]


def test_two_processes(tmp_path: Path) -> None:
    """Each gets its rank; all end when one dies; the exit code tells which signal that was, and no traceback does."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = launch.command(2, Path("/etc/run.json"), Path("/work"))
    module = command.index("finetune_trainer.worker") - 1
    done = subprocess.run(
        [*command[:module], str(script), *command[module + 2 :]],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 137, done.stderr
    for rank in (0, 1):
        environment = f"RANK={rank} LOCAL_RANK={rank} WORLD_SIZE=2 MASTER_ADDR=127.0.0.1"
        assert f"{environment} --run-file /etc/run.json --work-dir /work" in done.stdout
    assert "Traceback" not in done.stderr
