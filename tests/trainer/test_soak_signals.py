"""Signals at seeded random moments of a run, anywhere: the next attempt ends with the bits of a run that had none.

The real PID 1 and the real worker on a tiny model, its checkpoints and adapter on a real S3 server. `make soak` runs
all moments; SOAK_MOMENTS sets how many.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Output, Storage
from finetune_trainer.publish import CheckpointStore
from finetune_trainer.storage import open_store
from finetune_trainer.supervisor import processes
from finetune_trainer.workdir import WorkDir
from localcluster.s3 import S3Server
from tests.trainer.tinyrun import run_file

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
MOMENTS = int(os.environ.get("SOAK_MOMENTS", "100"))
STEPS = 6
PLACES = {
    "inputs": 1,
    "load": 2,
    "measure": 2,
    "restore": 1,
    "step": 2 * STEPS,
    "evaluate": 2,
    "save": 4,
    "write": 4,
    "offer": 4,
    "upload": 3,
    "prune": 3,
    "verify": 1,
    "publish": 1,
}
"""Where a run comes by, and how many times it surely does."""


@dataclass
class Attempt:
    """One run of the trainer that a signal may have ended."""

    code: int
    outcome: Outcome | None
    step: int
    """As the run said before the signal."""
    seconds: float
    """From the signal to the end."""


class Trainers:
    """The helper program."""

    def __init__(self, server: S3Server) -> None:
        program = [sys.executable, str(Path(__file__).with_name("forked_trainer.py"))]
        environment = {**os.environ, **server.environment()}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, env=environment)

    def run(self, run: RunFile, folder: Path, place: str = "", delay: float = 0, victim: str = "") -> Attempt:
        """One attempt; `victim` gets its signal `delay` seconds after the run has come to `place`, if it does."""
        folder.mkdir()
        (folder / "run.json").write_text(run.to_json())
        assert self._process.stdin
        self._process.stdin.write(f"{folder / 'run.json'} {folder / 'work'} {folder / 'log'}\n")
        self._process.stdin.flush()
        pid, work, step = int(self._line()), WorkDir(folder / "work"), 0
        if place:
            mark = folder / "work/places" / place
            while not mark.exists() and Path(f"/proc/{pid}").exists():
                time.sleep(0.001)
            time.sleep(delay)
            progress = work.read_progress()
            step = progress.step if progress else 0
            with suppress(ProcessLookupError):
                _strike(pid, victim)
        began = time.monotonic()
        code = int(self._line())
        text = (folder / "log").read_text() if (folder / "log").exists() else ""
        outcome = Outcome.from_termination_message(text) if text else None
        return Attempt(code, outcome, step, time.monotonic() - began)

    def close(self) -> None:
        """Let it end."""
        self._process.communicate(timeout=60)

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()


def _strike(pid: int, victim: str) -> None:
    workers = processes._children().get(pid, [])
    if victim == "SIGTERM to PID 1":
        os.kill(pid, signal.SIGTERM)
    elif victim == "SIGKILL to PID 1":
        os.kill(pid, signal.SIGKILL)
    else:
        processes.send(workers, signal.SIGKILL)


@pytest.fixture(scope="module", autouse=True)
def _credentials(s3: S3Server) -> Iterator[None]:
    """For this process's own look at the server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def trainers(s3: S3Server) -> Iterator[Trainers]:
    """The helper, with the credentials of the S3 server in its environment."""
    helper = Trainers(s3)
    yield helper
    helper.close()


@pytest.fixture(scope="module")
def straight(model: Path, trainers: Trainers, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of a run without any signal."""
    folder = tmp_path_factory.mktemp("straight")
    run = _run(folder, model, s3, "straight")
    assert trainers.run(run, folder / "first").code == 0, (folder / "first/log.output").read_text()
    return open_store(run.output.uri, run.storage).read("adapter_model.safetensors")


def _run(folder: Path, model: Path, s3: S3Server, name: str) -> RunFile:
    run = run_file(folder, model, uid=name, maxSteps=STEPS, checkpoints={"everySteps": 2, "keep": 2})
    changes = {
        "evaluation": run.evaluation.model_copy(update={"every_steps": 3}),
        "storage": Storage(endpoint=s3.endpoint),
        "output": Output.model_validate({"uri": f"s3://adapters/{folder.name}-{name}"}),
    }
    return run.model_copy(update=changes)


def _moments(seed: str, count: int) -> list[tuple[str, float]]:
    chance = random.Random(seed)
    return [
        (f"{place}-{chance.randint(1, PLACES[place])}", chance.random() ** 2 * 0.2)
        for place in (chance.choice(list(PLACES)) for _ in range(count))
    ]


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_sigterm(moment: int, model: Path, trainers: Trainers, straight: bytes, s3: S3Server, tmp_path: Path) -> None:
    """Exit 75 within the grace period, no step lost that was done, and the resumed run gets the same bits."""
    place, delay = _moments(f"SIGTERM {moment}", 1)[0]
    run = _run(tmp_path, model, s3, f"m{moment}")
    first = trainers.run(run, tmp_path / "first", place, delay, "SIGTERM to PID 1")
    said = f"{place} + {delay:.3f} s\n" + (tmp_path / "first/log.output").read_text()
    assert first.outcome is not None, said
    if first.code != 0:  # the signal came before the end
        assert (first.code, first.outcome.reason) == (75, Reason.PREEMPTED), said
        assert first.seconds < 50, said
        assert first.outcome.step >= first.step, said
        again = trainers.run(run, tmp_path / "second")
        assert again.code == 0, (tmp_path / "second/log.output").read_text()
        if first.outcome.step < STEPS:
            told = f"training from step {first.outcome.step} of {STEPS}"
            assert told in (tmp_path / "second/log.output").read_text(), said
    _check_end(run, straight, said)


@pytest.mark.parametrize("victim", ["SIGKILL to the worker", "SIGKILL to PID 1"])
@pytest.mark.parametrize("moment", range(MOMENTS // 4))
def test_sigkill(
    moment: int, victim: str, model: Path, trainers: Trainers, straight: bytes, s3: S3Server, tmp_path: Path
) -> None:
    """Killed twice at random moments, the third attempt ends with the same bits: no attempt trips over what is left."""
    run = _run(tmp_path, model, s3, f"k{moment}{victim[-1]}")
    said = ""
    for number, (place, delay) in enumerate(_moments(f"{victim} {moment}", 2)):
        attempt = trainers.run(run, tmp_path / str(number), place, delay, victim)
        said += f"{place} + {delay:.3f} s\n" + (tmp_path / f"{number}/log.output").read_text()
        assert attempt.code in (0, 70, -9), said
        if attempt.code == 0:
            break
    else:
        assert trainers.run(run, tmp_path / "last").code == 0, said + (tmp_path / "last/log.output").read_text()
    _check_end(run, straight, said)


def _check_end(run: RunFile, straight: bytes, said: str) -> None:
    store = open_store(run.output.uri, run.storage)
    assert store.read("adapter_model.safetensors") == straight, said
    assert CheckpointStore(store, run.uid, lambda _: None).newest() == 0, said
