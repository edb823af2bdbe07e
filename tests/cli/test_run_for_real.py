"""`finetune run` with the real trainer on a tiny model: stop, resume, publish; no root, no network."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import tiny

pytestmark = pytest.mark.long

JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: tiny}
spec:
  model: {uri: file://./model}
  dataset:
    train: {uri: file://./train.jsonl}
    evaluation: {uri: file://./eval.jsonl}
  method: {type: QLoRA, rank: 4}
  training:
    maxSteps: %d
    learningRate: "1e-3"
    batchSize: 4
    microBatchSize: 4
    maxLength: 128
    checkpoints: {everySteps: 10}
  resources: {gpus: 0}
  output: {uri: file://./adapter}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and some rows."""
    made = tmp_path_factory.mktemp("run")
    tiny.save_tiny_model(made / "model")
    (made / "train.jsonl").write_text(tiny.jsonl(tiny.rows(16)))
    (made / "eval.jsonl").write_text(tiny.jsonl(tiny.rows(4, start=100)))
    return made


@contextmanager
def finetune_run(folder: Path, job: str, command: str = "run") -> "Iterator[subprocess.Popen[str]]":
    """A `finetune run`; whatever becomes of the test, it is over at the end."""
    (folder / "job.yaml").write_text(job)
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune_cli", command, str(folder / "job.yaml"), "--work-dir", str(folder / "work")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


def progress(folder: Path) -> int:
    """The step that the trainer says it has reached."""
    try:
        return int(json.loads((folder / "work" / "progress.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0


def test_stop_resume_publish(folder: Path) -> None:
    """Ctrl-C ends with 75 and a checkpoint; the same command goes on from there and publishes a verified adapter."""
    job = JOB % 30
    with finetune_run(folder, job) as first:
        while progress(folder) < 5:
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.02)
        first.send_signal(signal.SIGINT)
        output, _ = first.communicate()
    assert first.returncode == 75, output
    assert "run the same command to resume" in output
    assert not (folder / "adapter" / "manifest.json").exists()
    stopped_at = int(output.partition("stopped at step ")[2].partition(";")[0])
    assert 5 <= stopped_at < 30

    with finetune_run(folder, job) as second:
        output, _ = second.communicate()
    assert second.returncode == 0, output
    log = (folder / "work" / "trainer.log").read_text()
    assert str(stopped_at) in log, log  # it says from where it goes on
    assert "held-out loss" in output
    check_published(folder / "adapter")


def test_what_was_prepared_is_trained_on(folder: Path) -> None:
    """`finetune prepare` checks every row and trains nothing; `finetune run` then reads none of them again."""
    job = (JOB % 2).replace("{uri: file://./adapter}", "{uri: file://./other}")
    with finetune_run(folder, job, "prepare") as prepared:
        output, _ = prepared.communicate()
    assert prepared.returncode == 0, output
    answers = [str(row["messages"][1]["content"]) for row in tiny.rows(16)]  # type: ignore[index]
    trained = sum(len(answer) + 1 for answer in answers)  # bytes, and the end of the turn
    assert "16 rows, " in output
    assert f"{trained} of them trained" in output
    assert ">>>It is 0.<|im_end|><<<" in output
    assert not (folder / "other/manifest.json").exists()
    with finetune_run(folder, job) as ran:
        output, _ = ran.communicate()
    assert ran.returncode == 0, output
    assert "read 16 rows" not in (folder / "work/trainer.log").read_text()
    check_published(folder / "other")


def test_a_bad_row_is_named_before_anything_trains(folder: Path) -> None:
    """With its file and line, and the trainer's exit code for a dataset."""
    (folder / "bad.jsonl").write_text(tiny.jsonl(tiny.rows(3)) + '{"messages": []}\n')
    with finetune_run(folder, (JOB % 2).replace("train.jsonl", "bad.jsonl"), "prepare") as prepared:
        output, _ = prepared.communicate()
    assert prepared.returncode == 65, output
    assert "bad.jsonl:4" in output


def check_published(adapter: Path) -> None:
    """Every file is what the manifest says, and plain PEFT's file names are there."""
    manifest = json.loads((adapter / "manifest.json").read_text())
    assert {"adapter_model.safetensors", "adapter_config.json"} <= set(manifest["files"])
    for name, facts in manifest["files"].items():
        assert hashlib.sha256((adapter / name).read_bytes()).hexdigest() == facts["sha256"]


def test_the_adapter_loads_with_plain_peft(folder: Path) -> None:
    """What was published is an adapter of the base model as PEFT reads it, and it changes what the model says."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder / "adapter")

    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        tuned = model(tokens).logits
        with model.disable_adapter():
            plain = model(tokens).logits
    assert not torch.equal(tuned, plain)
