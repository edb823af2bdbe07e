"""A run that stands still is ended with its stacks in the log; one that is only slow, or frozen as a whole, is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.names import ActiveReason
from finetune_api.outcome import Reason
from finetune_api.progress import Progress
from finetune_trainer.supervisor.hang import Watch, stands_at
from finetune_trainer.workdir import WorkDir
from tests.trainer.pid1 import Start

TRAINS = """
import threading
sys.path.insert(0, {root!r})
from finetune_api.progress import Progress
from finetune_trainer.supervisor.processes import write_stacks_on_request
from finetune_trainer.workdir import WorkDir
write_stacks_on_request()
def stand_still_in_a_thread():
    time.sleep(1000)
def stand_still_for_ever():
    threading.Lock().acquire() and time.sleep(1000)
threading.Thread(target=stand_still_in_a_thread, daemon=True).start()
for step in range(3):
    WorkDir(work).write_progress(Progress(phase="Training", step=step, total_steps=9))
    time.sleep(1.1)
stand_still_for_ever()
"""


class Bench:
    """A watch with a clock of its own, over a work folder."""

    def __init__(self, folder: Path, timeout: int | None = None) -> None:
        self.work = WorkDir(folder)
        self.now = 1000.0
        self.watch = Watch(self.work, timeout, lambda: self.now)

    def train(self, steps: int, seconds: float, phase: ActiveReason = ActiveReason.TRAINING) -> None:
        """Steps that take so long each, watched every second."""
        before = (self.work.read_progress() or Progress()).step
        for step in range(before, before + steps + 1):
            self.work.write_progress(Progress(phase=phase, step=step, total_steps=1000))
            assert self.until(seconds) is None

    def until(self, seconds: float) -> float | None:
        """After how many seconds of silence it is called a hang; None where it is not within `seconds`."""
        began = self.now
        while self.now < began + seconds:
            self.now += 1
            if self.watch.look():
                return self.now - began
        return None


@pytest.mark.parametrize(
    ("pace", "timeout", "limit"), [(1, None, 120), (10, None, 200), (60, None, 1200), (10, 45, 45), (60, 90, 90)]
)
def test_in_training(tmp_path: Path, pace: int, timeout: int | None, limit: int) -> None:
    """Twenty times a step, at least two minutes, or what the job says; counted from the last sign of life."""
    bench = Bench(tmp_path, timeout)
    bench.train(6, pace)
    found = bench.until(10 * limit)
    assert found is not None
    assert limit - pace <= found <= limit + 2
    assert f"after step 6 of 1000, in phase Training (a step takes {pace}.0 s)" in bench.watch.look()


def test_slow_is_not_still(tmp_path: Path) -> None:
    """Micro-batches, an evaluation that says its rows, a checkpoint that grows: all are signs of life."""
    bench = Bench(tmp_path)
    bench.train(6, 1)
    for number in range(50):
        said = Progress(
            phase=ActiveReason.TRAINING, step=6, total_steps=1000, message=f"evaluating: {number} rows done"
        )
        bench.work.write_progress(said)
        assert bench.until(100) is None
    bench.work.checkpoints.mkdir()
    for number in range(50):
        (bench.work.checkpoints / "model.safetensors").write_bytes(b"." * (number + 1))
        assert bench.until(100) is None
    assert bench.until(1000) is not None


@pytest.mark.parametrize("phase", [ActiveReason.LOADING, ActiveReason.PUBLISHING, ActiveReason.TRAINING])
def test_elsewhere(tmp_path: Path, phase: ActiveReason) -> None:
    """Half an hour, while nothing is known of its pace: before the first steps, and outside of training."""
    bench = Bench(tmp_path)
    bench.train(0, 1, phase)
    found = bench.until(10_000)
    assert found is not None
    assert 1800 <= found <= 1802


def test_a_frozen_machine(tmp_path: Path) -> None:
    """Hours in which nothing ran, this process neither, say nothing about the worker."""
    bench = Bench(tmp_path)
    bench.train(6, 1)
    bench.now += 100_000
    assert bench.watch.look() == ""
    assert bench.until(100) is None


@pytest.mark.long
def test_the_end_of_a_hang(start: Start) -> None:
    """A worker that really stands still: the stacks of all its threads are in the log, exit 82, how long and where."""
    trainer = start(TRAINS.format(root=str(Path(__file__).parents[2])), training={"hangTimeoutSeconds": 2})
    code, outcome, output = trainer.ended()
    assert (code, outcome.reason, outcome.step) == (82, Reason.HANG, 2)
    assert "nothing moved for" in outcome.message
    assert "after step 2 of 9, in phase Training" in outcome.message
    assert outcome.message.endswith("in stand_still_for_ever")
    for name in ("stand_still_for_ever", "stand_still_in_a_thread"):
        assert f"in {name}" in output


def test_where_a_process_stands() -> None:
    """What faulthandler writes of a real process is understood: the innermost frame of its main thread."""
    program = "import faulthandler, os, signal, threading, time\nfaulthandler.register(signal.SIGUSR1)\n"
    program += "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
    program += "def inner():\n    os.kill(os.getpid(), signal.SIGUSR1)\ndef outer():\n    inner()\nouter()\nos._exit(0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert stands_at(done.stderr) == 'File "<string>", line 5 in inner'
    assert stands_at("no stacks") == ""
