"""A process that is killed takes its run along, soon and with a reason, also where the others wait for its share."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcome import Outcome, Reason
from finetune_trainer.supervisor import processes
from finetune_trainer.workdir import WorkDir
from tests.trainer.tinyrun import run_file

SECONDS = 60


def _rank(launcher: int, rank: int) -> int:
    """The process id of one worker."""
    below = [pid for child in processes._children().get(launcher, []) for pid in processes._children().get(child, [])]
    return next(pid for pid in below if f"LOCAL_RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text())


@pytest.mark.parametrize(
    ("strategy", "method", "killed"),
    [
        pytest.param("ZeRO3", {}, 1, marks=pytest.mark.long),
        pytest.param("FSDP", {"type": "LoRA"}, 0, marks=pytest.mark.soak),
        pytest.param("ZeRO2", {}, 0, marks=pytest.mark.soak),
        pytest.param("DDP", {}, 1, marks=pytest.mark.soak),
    ],
)
def test_a_killed_process_ends_the_run(
    strategy: str, method: dict[str, Any], killed: int, model: Path, tmp_path: Path
) -> None:
    """SIGKILL to one rank in the middle of training: within a minute no process is left, and the reason is PeerLost."""
    run = run_file(
        tmp_path, model, method=method, parallelism={"strategy": strategy}, maxSteps=100_000, epochs=999,
        checkpoints={"everySteps": 100_000},
    )  # fmt: skip
    (tmp_path / "run.json").write_text(run.model_copy(update={"processes": 2}).to_json())
    program = [sys.executable, "-m", "finetune_trainer", "--run-file", str(tmp_path / "run.json"), "--port", "0"]
    with (tmp_path / "output").open("wb") as output:
        trainer = subprocess.Popen(
            [*program, "--work-dir", str(tmp_path / "work"), "--termination-log", str(tmp_path / "log")],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        work = WorkDir(tmp_path / "work")
        while (progress := work.read_progress()) is None or progress.step < 3:
            assert trainer.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.02)
        os.kill(_rank(trainer.pid, killed), signal.SIGKILL)
        code = trainer.wait(timeout=SECONDS)
    finally:
        trainer.send_signal(signal.SIGINT)
        trainer.send_signal(signal.SIGINT)
        trainer.wait(timeout=SECONDS)
    ended = Outcome.from_termination_message((tmp_path / "log").read_text())
    assert (code, ended.reason) == (82, Reason.PEER_LOST), (tmp_path / "output").read_text()
    assert not any(str(tmp_path) in Path(f"/proc/{pid}/cmdline").read_text() for pid in processes.descendants())
