"""From the start of the program to its first optimizer step, and to its refusal of a bad configuration."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.training import QUIET

FIRST_STEP = {"ours": r"step [1-9]\d*/", "trl": r"\{'loss'"}
"""Not every step has its line: a fast one may be told with the next."""
LIMIT_SECONDS = 600


def first_step(side: str, folder: Path, length: int) -> float:
    """Seconds until the log says that the first step is done; the program is ended then."""
    command = {"ours": _ours, "trl": _trl}[side](folder, length)
    start = time.perf_counter()
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=QUIET | os.environ,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert program.stdout is not None
        seen = []
        for line in program.stdout:
            seen.append(line)
            if re.search(FIRST_STEP[side], line):
                return time.perf_counter() - start
            if time.perf_counter() - start > LIMIT_SECONDS:
                break
        raise SystemExit(f"{side} took no step:\n{''.join(seen[-15:])}")
    finally:
        os.killpg(program.pid, signal.SIGKILL)  # its launcher, too
        program.wait()


def refusal(side: str, folder: Path) -> float:
    """Seconds until a learning rate that is no number is refused."""
    bad = folder / "bad.json"
    document = json.loads(run_file(folder, 512).read_text())
    document["training"]["learningRate"] = "fast"
    bad.write_text(json.dumps(document))
    command = {
        "ours": [sys.executable, "-m", "finetune_trainer", "--run-file", str(bad), "--work-dir", str(folder / "bad")],
        "trl": [_program("trl"), "sft", "--model_name_or_path", str(folder / "model"), "--learning_rate", "fast"],
    }[side]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=QUIET | os.environ, check=False)
    seconds = time.perf_counter() - start
    if done.returncode == 0 or "fast" not in done.stdout + done.stderr:
        raise SystemExit(f"{side} did not refuse it:\n{done.stdout}{done.stderr}")
    return seconds


def run_file(folder: Path, length: int, out: Path | None = None) -> Path:
    """A run file of the benchmark's work."""
    path = folder / "run.json"
    document = {
        "name": "bench", "namespace": "local", "uid": "start", "storage": {}, "evaluation": {},
        "model": {"uri": f"file://{folder}/model"},
        "dataset": {"train": {"uri": f"file://{folder}/rows.jsonl"}},
        "method": {"type": "LoRA", "rank": 8, "dropout": "0"},
        "training": {
            "batchSize": 1, "maxSteps": 100, "packing": True, "maxLength": length, "precision": "BFloat16",
        },
        "output": {"uri": f"file://{out or folder / 'out'}"},
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return path


def _ours(folder: Path, length: int) -> list[str]:
    fresh = Path(tempfile.mkdtemp(dir=folder))  # the worker of the last round may still be saying its last words
    where = [
        "--run-file",
        str(run_file(folder, length, fresh / "out")),
        "--work-dir",
        str(fresh / "work"),
        "--port",
        "0",
    ]
    return [sys.executable, "-m", "finetune_trainer", *where, "--termination-log", str(fresh / "termination.log")]


def _trl(folder: Path, length: int) -> list[str]:
    data = folder / "trl-start"
    data.mkdir(exist_ok=True)
    (data / "train.jsonl").write_text((folder / "rows.jsonl").read_text())
    options = {
        "model_name_or_path": folder / "model", "dataset_name": data, "output_dir": folder / "trl-out",
        "lora_r": 8, "lora_target_modules": "all-linear", "max_length": length, "per_device_train_batch_size": 1,
        "max_steps": 100, "logging_steps": 1, "report_to": "none", "disable_tqdm": "true", "save_strategy": "no",
    }  # fmt: skip
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [_program("trl"), "sft", *flags, "--use_peft", "--packing", "--use_cpu"]


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)
