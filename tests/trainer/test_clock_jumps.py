"""The clock on the wall may be set while a run goes on: nothing is decided by it, and no duration comes of it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.outcome import Outcome, Reason
from tests.trainer.tinyrun import run_file

pytestmark = pytest.mark.long
DAYS = 10 * 86400
STEPS = 30
# Python runs a module called sitecustomize at its start, here in PID 1 and in the worker.
CLOCK = f"""
import os, sys, time
real, metrics, log = time.time, os.environ["TEST_METRICS"], os.environ["TEST_JUMPS"]
told = set()
def steps():
    try:
        with open(metrics) as file:
            return sum('"loss"' in line for line in file)
    except OSError:
        return 0
def jumping():
    done = steps()
    days = {DAYS} if 10 <= done < 20 else -{DAYS} if done >= 20 else 0
    if days not in told:
        told.add(days)
        with open(log, "a") as file:
            print(os.getpid(), days, file=file)
    return real() + days
time.time = jumping
"""


def test_days_forward_and_back(model: Path, tmp_path: Path) -> None:
    """Ten days on after ten steps, and twenty back after ten more: the run is published, with all its steps.

    No hang is declared, no checkpoint is due, and nobody is told of a negative time.
    """
    run = run_file(
        tmp_path,
        model,
        maxSteps=STEPS,
        epochs=10,
        hangTimeoutSeconds=300,
        checkpoints={"everySteps": 1000, "everySeconds": 3600},
    )
    (tmp_path / "run.json").write_text(run.to_json())
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(CLOCK)
    command = [sys.executable, "-m", "finetune_trainer", "--run-file", str(tmp_path / "run.json"), "--port", "0"]
    command += ["--work-dir", str(tmp_path / "work"), "--termination-log", str(tmp_path / "log")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "clock"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "TEST_METRICS": str(tmp_path / "work/metrics.jsonl"),
        "TEST_JUMPS": str(tmp_path / "jumps"),
    }
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=280, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    outcome = Outcome.from_termination_message((tmp_path / "log").read_text())
    assert (outcome.reason, outcome.step) == (Reason.PUBLISHED, STEPS)
    jumps = [line.split() for line in (tmp_path / "jumps").read_text().splitlines()]
    assert {days for _, days in jumps} == {"0", str(DAYS), str(-DAYS)}
    assert "no news" not in output
    assert not re.search(r" -\d+(\.\d+)?[smh]", output)
    assert not re.search(r"\d+h\d\dm", output), "the run took no hours"
    saved = {int(step) for step in re.findall(r"Saved the checkpoint of step (\d+)", output)}
    assert saved <= {STEPS}
    logged = [json.loads(line) for line in (tmp_path / "work/metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged if "loss" in entry] == list(range(1, STEPS + 1))
