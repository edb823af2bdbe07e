"""What `finetune run` promises whatever the trainer does; the trainer here is a stand-in that takes milliseconds."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune_api.load import load_jobs
from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_cli import plan
from finetune_cli.errors import UsageError

JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: tiny}
spec:
  model: {uri: file:///model}
  dataset: {train: {uri: file:///rows.jsonl}}
  training: {batchSize: 8}
  resources: {gpus: 0}
  output: {uri: file:///adapter}
"""
STAND_IN = """
import sys
from finetune_cli import main, plan
real = plan.Plan.command.fget
plan.Plan.command = property(lambda self: [sys.executable, {fake!r}, *real(self)[3:]])
main.app()
"""
FAKE = Path(__file__).with_name("fake_trainer.py")


def start(tmp_path: Path, reason: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start `finetune run` with the stand-in for the trainer."""
    job = tmp_path / "job.yaml"
    job.write_text(JOB)
    program = STAND_IN.format(fake=str(FAKE))
    return subprocess.Popen(
        [sys.executable, "-c", program, "run", str(job), "--work-dir", str(tmp_path / "work"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "FAKE_REASON": reason, "COLUMNS": "120"},
    )


@pytest.mark.parametrize("reason", [Reason.PUBLISHED, Reason.INVALID_DATASET, Reason.STORAGE_DENIED, Reason.DIVERGED])
def test_the_exit_code_is_the_trainers(tmp_path: Path, reason: Reason) -> None:
    """A script can tell the failures apart; a person reads reason, message and hint."""
    process = start(tmp_path, reason)
    output, _ = process.communicate(timeout=30)

    assert process.returncode == reason.exit_code
    assert "step 3/9" in output
    assert "loss 1.2345" in output
    if reason is not Reason.PUBLISHED:
        assert all(text in output for text in (reason, "the message", "the hint"))
    else:
        assert re.search(r"accuracy +0\.5000 before, 0\.7500 after", output)
        assert re.search(r"macroF1 +0\.6667 after", output)


def test_the_trainers_log_is_kept_and_shown_when_asked(tmp_path: Path) -> None:
    """The log is a file of the work folder; --verbose shows it too."""
    quiet, _ = start(tmp_path, Reason.PUBLISHED).communicate(timeout=30)
    loud, _ = start(tmp_path, Reason.PUBLISHED, "--verbose").communicate(timeout=30)

    assert "the trainer speaks" in (tmp_path / "work" / "trainer.log").read_text()
    assert "the trainer speaks" not in quiet
    assert "the trainer speaks" in loud


def test_a_trainer_that_dies_without_a_word_shows_its_last_lines(tmp_path: Path) -> None:
    """No outcome, no claim: the exit code and the end of the log are what is known."""
    process = start(tmp_path, "none")
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 70
    assert "ended with code 70 and left no outcome" in output
    assert "the trainer speaks" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_forwarded_once_and_waited_for(tmp_path: Path, number: signal.Signals) -> None:
    """The trainer gets one SIGTERM, saves, and ends; the user hears at which step, and how to go on."""
    process = start(tmp_path, Reason.PREEMPTED)
    wait_for(tmp_path / "work" / "progress.json", process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 75
    assert (tmp_path / "work" / "signals").read_text() == str(int(signal.SIGTERM))
    assert "stopped at step 3; run the same command to resume" in output


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    """The second is refused while the first runs, and the first does not notice."""
    first = start(tmp_path, Reason.PREEMPTED)
    wait_for(tmp_path / "work" / "progress.json", first)
    second = start(tmp_path, Reason.PREEMPTED)
    output, _ = second.communicate(timeout=30)
    first.terminate()
    first.communicate(timeout=30)

    assert second.returncode == 1
    assert "already runs" in output
    assert first.returncode == 75


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until the file is there."""
    end = time.monotonic() + 30
    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def job(text: str = JOB):
    """The one job of a text."""
    return load_jobs(text, local=True)[0]


def test_the_uid_follows_the_recipe(tmp_path: Path) -> None:
    """The same job resumes: its uid is the same in any process. A change of name or recipe is another run."""
    first = plan.make(job(), tmp_path)

    assert first.run.uid == plan.make(job(JOB + "\n# a comment\n"), tmp_path / "elsewhere").run.uid
    assert first.run.uid != plan.make(job(JOB.replace("batchSize: 8", "batchSize: 4")), tmp_path).run.uid
    assert first.run.uid != plan.make(job(JOB.replace("name: tiny", "name: other")), tmp_path).run.uid
    assert first.run.uid == plan.make(job(JOB.replace("gpus: 0", "gpus: 1")), tmp_path).run.uid


def test_the_run_file_is_what_the_trainer_reads(tmp_path: Path) -> None:
    """It survives the way through JSON, says `local`, and starts one process on a machine without GPUs."""
    run = plan.make(job(), tmp_path).run

    assert RunFile.from_json(run.to_json()) == run
    assert (run.namespace, run.processes) == ("local", 1)


def test_one_machine_is_one_node(tmp_path: Path) -> None:
    """A job for several nodes runs here as one, on the same batch, and says so; its uid is that of any other number."""
    made = plan.make(job(JOB.replace("gpus: 0", "gpus: 0, nodes: 2")), tmp_path)

    assert (made.run.nodes, made.run.training.batch_size) == (1, plan.make(job(), tmp_path).run.training.batch_size)
    assert made.run.uid == plan.make(job(), tmp_path).run.uid
    assert "2 nodes" in " ".join(made.remarks)


@pytest.mark.parametrize(
    ("wanted", "here", "processes", "said"),
    [
        (0, ["0"], 1, ""),
        (2, [], 1, "training on the CPU"),
        (4, ["0", "1"], 2, "2 of them"),
        (4, ["a", "b", "c"], 2, "2 of"),
    ],
)
def test_gpus_that_are_not_there_are_said_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, here: list[str], processes: int, said: str
) -> None:
    """One process per GPU that is here and that divides the batch; fewer than asked for is a remark, not a silence."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(here))

    made = plan.make(job(JOB.replace("gpus: 0", f"gpus: {wanted}")), tmp_path)

    assert made.run.processes == processes
    assert said in " ".join(made.remarks)
    assert bool(made.remarks) == bool(said)


def test_a_missing_extra_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch nothing is started, and the command that installs it is named."""
    monkeypatch.setattr(plan, "_NEEDED", ("torch", "no_such_module"))

    with pytest.raises(UsageError) as caught:
        plan.make(job(), tmp_path)

    assert "no_such_module" in caught.value.message
    assert "torch," not in caught.value.message
    assert "finetune-operator[trainer,cli]" in caught.value.remedy
