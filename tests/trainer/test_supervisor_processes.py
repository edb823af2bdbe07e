"""PID 1 over real processes: signals reach the worker, orphans are reaped, and every end has its reason and code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune_api.outcome import Outcome, Reason
from finetune_trainer.supervisor import processes
from finetune_trainer.supervisor.launch import rank_of
from finetune_trainer.supervisor.place import Place
from finetune_trainer.workdir import WorkDir
from tests.trainer.pid1 import READY, TIMEOUT, Start

PATIENT = """
def stop(*_):
    finish("Preempted", "saved", 7)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
"""
STUBBORN = "signal.signal(signal.SIGTERM, lambda *_: say('asked'))\n"


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("reason", "code"),
    [(Reason.PUBLISHED, 0), (Reason.PUBLISHED, 1), (Reason.EMPTY_DATASET, 0), (Reason.OUT_OF_GPU_MEMORY, 1)],
)
def test_worker_has_the_last_word(start: Start, reason: Reason, code: int) -> None:
    """The outcome that the worker wrote decides, whatever code it or torchrun ends with."""
    ended = start(f"finish({str(reason)!r}, 'x' * 3000, 3); sys.exit({code})")
    exit_code, outcome, output = ended.ended()
    assert (exit_code, outcome.reason, outcome.step) == (reason.exit_code, reason, 3)
    assert f" {reason}: xxx" in output.splitlines()[-1]


def test_preempted_without_a_signal_is_a_lost_peer(start: Start) -> None:
    """Torchrun stops the others when one worker dies; only a stop that reached this process is a preemption."""
    code, outcome, _ = start("finish('Preempted', 'saved', 7); sys.exit(75)").ended()
    assert (code, outcome.reason, outcome.step) == (82, Reason.PEER_LOST, 7)


@pytest.mark.parametrize("end", ["finish('InternalError', 'broke', 57)", "sys.exit(1)"])
@pytest.mark.parametrize(("began", "told"), [('"step": 57, "resumedFrom": 40', 40), ('"step": 0', None)])
def test_the_step_it_began_with_is_told(start: Start, end: str, began: str, told: int | None) -> None:
    """It is in the outcome, whoever speaks it; and none where training never began."""
    worker = f"""(work / "progress.json").write_text('{{"phase": "Training", {began}}}')\n{end}"""
    _, outcome, _ = start(worker).ended()
    assert outcome.resumed_from == told


def test_no_last_word(start: Start) -> None:
    """A worker that ends without an outcome is an internal error with its code and the end of its stderr."""
    code, outcome, output = start("say('hello'); sys.exit('boom')").ended()
    assert (code, outcome.reason) == (70, Reason.INTERNAL_ERROR)
    assert "exit code 1" in outcome.message
    assert outcome.message.endswith("boom")
    assert "hello" in output
    assert "boom" in output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_worker(start: Start, number: signal.Signals) -> None:
    """A worker that a signal ended is an internal error that names the signal; without evidence it is no OOM kill."""
    code, outcome, _ = start(f"os.kill(os.getpid(), {number:d})").ended()
    assert (code, outcome.reason) == (70, Reason.INTERNAL_ERROR)
    assert number.name in outcome.message


def test_unreadable_last_word(start: Start) -> None:
    """An outcome that is none is an internal error."""
    code, outcome, _ = start("(work / 'outcome.json').write_text('{')").ended()
    assert (code, outcome.reason) == (70, Reason.INTERNAL_ERROR)
    assert "cannot be read" in outcome.message


def test_stale_files(start: Start, tmp_path: Path) -> None:
    """Outcome and progress of an earlier run in the same folder say nothing about this one."""
    earlier = WorkDir(tmp_path / "work")
    earlier.write_outcome(Outcome(reason=Reason.PUBLISHED, message="of yesterday"))
    code, outcome, _ = start("sys.exit(3)").ended()
    assert (code, outcome.reason) == (70, Reason.INTERNAL_ERROR)
    assert "exit code 3" in outcome.message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_reaches_the_worker(start: Start, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C reach the worker as SIGTERM, and it has the time to save."""
    trainer = start(PATIENT + READY)
    trainer.wait_for("ready")
    trainer.process.send_signal(number)
    code, outcome, output = trainer.ended()
    assert (code, outcome.reason) == (75, Reason.PREEMPTED)
    assert outcome.message == "saved; no checkpoint is in storage: the next attempt starts anew"
    assert number.name in output


def test_stop_reaches_the_ranks_and_not_the_launcher(start: Start) -> None:
    """Where there is a launcher, the processes with a rank get the signal, and only they."""
    rank = "import os,signal,time; signal.signal(15, lambda *_: os._exit(7)); os.write(1, b'ready\\n'); time.sleep(100)"
    launcher = f"""
signal.signal(signal.SIGTERM, lambda *_: say("launcher was told"))
environment = [dict(os.environ, LOCAL_RANK=str(n)) for n in range(2)]
ranks = [subprocess.Popen([sys.executable, "-c", {rank!r}], env=e, start_new_session=True) for e in environment]
other = subprocess.Popen(["sleep", "100"], start_new_session=True)
say("codes", *[rank.wait() for rank in ranks], other.poll())
"""
    trainer = start(launcher)
    trainer.wait_for("ready")
    trainer.wait_for("ready")
    trainer.process.send_signal(signal.SIGTERM)
    _, outcome, output = trainer.ended()
    assert "codes 7 7 None" in output
    assert "launcher was told" not in output
    assert outcome.reason is Reason.PREEMPTED


def test_stop_reaches_the_only_rank_of_a_node_and_not_its_children() -> None:
    """A worker without a launcher is the one that is told, although what it starts inherits its rank."""
    parent = "import subprocess; print(subprocess.Popen(['sleep', '100']).pid, flush=True); input()"
    environment = {**os.environ, **rank_of(1, Place(nodes=2, node=1))}
    with subprocess.Popen(
        [sys.executable, "-c", parent], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout
        child = int(worker.stdout.readline())
        told = processes.workers(worker.pid)
        os.kill(child, signal.SIGKILL)
        worker.kill()
    assert told == [worker.pid]


def test_grace(start: Start) -> None:
    """A worker that does not stop is killed when the grace is over; that is a preemption, for it was asked to stop."""
    trainer = start(STUBBORN + READY, "--stop-grace-seconds", "0.5")
    trainer.wait_for("ready")
    trainer.process.send_signal(signal.SIGTERM)
    trainer.process.send_signal(signal.SIGTERM)
    code, outcome, output = trainer.ended()
    assert (code, outcome.reason) == (75, Reason.PREEMPTED)
    assert output.count("asked\n") == 1
    assert "0.5 s after SIGTERM" in outcome.message


def test_second_interrupt(start: Start) -> None:
    """A second Ctrl-C kills at once."""
    trainer = start(STUBBORN + READY, "--stop-grace-seconds", "1000")
    trainer.wait_for("ready")
    trainer.process.send_signal(signal.SIGINT)
    trainer.wait_for("asked")
    trainer.process.send_signal(signal.SIGINT)
    code, outcome, _ = trainer.ended()
    assert (code, outcome.reason) == (75, Reason.PREEMPTED)
    assert "interrupted twice" in outcome.message


def test_nothing_is_left(start: Start) -> None:
    """Processes that the worker left behind, in sessions of their own and without a parent, are ended with it."""
    leave = (
        "import subprocess; print('left', subprocess.Popen(['sleep', '300'], start_new_session=True).pid, flush=True)"
    )
    trainer = start(f"subprocess.run([sys.executable, '-c', {leave!r}])\n" + PATIENT + READY)
    orphan = int(trainer.wait_for("left").split()[1])
    trainer.wait_for("ready")
    assert _alive(orphan)
    trainer.process.send_signal(signal.SIGTERM)
    assert trainer.ended()[0] == 75
    assert not _alive(orphan)


def test_orphans_are_reaped(start: Start) -> None:
    """An orphan that ends while the run goes on does not stay as a zombie."""
    leave = "import subprocess; print('left', subprocess.Popen(['sleep', '0.1']).pid, flush=True)"
    trainer = start(f"subprocess.run([sys.executable, '-c', {leave!r}])\n" + PATIENT + READY)
    orphan = int(trainer.wait_for("left").split()[1])
    trainer.wait_for("ready")
    deadline = time.monotonic() + TIMEOUT
    while Path(f"/proc/{orphan}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert trainer.process.poll() is None


def test_worker_environment(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What libraries write by themselves goes below the scratch folder; credentials are passed on; no hub is asked."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("LOCAL_RANK", "3")
    names = ("HOME", "TMPDIR", "HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME")
    trainer = start(f"say('environment', *[os.environ[n] for n in {names!r}], os.environ['AWS_ACCESS_KEY_ID'], "
                    "os.environ['HF_HUB_OFFLINE'], 'LOCAL_RANK' in os.environ)")  # fmt: skip
    words = trainer.wait_for("environment").split()[1:]
    assert all(word.startswith(f"{tmp_path}/work/") for word in words[: len(names)])
    assert words[len(names) :] == ["key", "1", "False"]


def test_unwritable_target(start: Start) -> None:
    """A target that cannot be written ends the run before the worker is started."""
    code, outcome, output = start("say('started')", output={"uri": "pvc://no-such-claim/x"}).ended()
    assert (code, outcome.reason) == (73, Reason.STORAGE_DENIED)
    assert "started" not in output
