"""The worker processes of runs, forked instead of started: a helper of the tests of sharding, run as a program.

Reads lines of JSON `{"run": FILE, "work": FOLDER, "processes": N, "nodes": M, "stop": {RANK: STEP}, "broken": CODE}`,
forks N workers for each of M nodes as torchrun would start them, and answers with the list of their exit codes. Each
node but the first has a work folder of its own beside FOLDER. Worker RANK gets SIGTERM in the middle of STEP. CODE
breaks something first. Rank 0 also does PID 1's part: its checkpoints are in storage when it ends.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed  # noqa: F401 - so that no child has to
from transformers import TrainerCallback

from finetune_api.run import RunFile
from finetune_trainer import worker
from finetune_trainer.sharding import zero
from finetune_trainer.supervisor import launch, processes
from finetune_trainer.training import fit, run, start, trainer  # noqa: F401 - likewise
from tests.trainer.tinyrun import uploading


class _SignalAt(TrainerCallback):  # type: ignore[misc]
    """Sends this process SIGTERM in the middle of a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step + 1 == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


def _rank(task: dict[str, Any], rank: int, port: int) -> int:
    node, local = divmod(rank, task["processes"])
    work = Path(f"{task['work']}-{node}" if node else task["work"])
    output = os.open(f"{task['work']}.{rank}.output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    world = task["processes"] * task["nodes"]
    places = {"RANK": rank, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": task["processes"], "WORLD_SIZE": world}
    places["MASTER_PORT"] = port
    if world > 1:
        os.environ |= {"MASTER_ADDR": launch.LOOPBACK, **{name: str(value) for name, value in places.items()}}
    if str(rank) in task["stop"]:
        real = fit._trainer

        def stopping(*arguments: Any) -> Any:
            made = real(*arguments)
            made.add_callback(_SignalAt(task["stop"][str(rank)]))
            return made

        fit._trainer = stopping
    exec(task["broken"], {})  # noqa: S102 - what a test breaks to see it noticed
    zero.STAGE3 = dict.fromkeys(zero.STAGE3, 0)  # or nothing of a tiny model would be shared out
    arguments = ["--run-file", task["run"], "--work-dir", str(work)]
    processes.write_stacks_on_request()
    if rank:
        return worker.main(arguments)
    with uploading(RunFile.from_json(Path(task["run"]).read_bytes()), work):
        return worker.main(arguments)


def _fork(task: dict[str, Any], rank: int, port: int) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _rank(task, rank, port)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


if __name__ == "__main__":
    for line in sys.stdin:
        wanted = json.loads(line)
        free = launch._free_port()
        pids = [_fork(wanted, rank, free) for rank in range(wanted["processes"] * wanted["nodes"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        sys.stdout.write(f"{json.dumps(codes)}\n")
        sys.stdout.flush()
