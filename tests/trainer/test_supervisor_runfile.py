"""A wrong run file is refused before anything heavy is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.outcome import Outcome, Reason

GOOD: dict[str, object] = {
    "name": "bot",
    "namespace": "local",
    "uid": "uid-1",
    "method": {},
    "training": {},
    "evaluation": {},
    "model": {"uri": "s3://models/x"},
    "storage": {},
    "output": {"uri": "s3://adapters/x"},
    "dataset": {"train": {"uri": "s3://datasets/rows.jsonl"}},
}
HEAVY = [
    "torch",
    "transformers",
    "peft",
    "datasets",
    "boto3",
    "huggingface_hub",
    "numpy",
    "prometheus_client",
    "http.server",
]
PROGRAM = f"""
import sys
from finetune_trainer.__main__ import main
code = main(sys.argv[1:])
print("heavy:", [name for name in {HEAVY!r} if name in sys.modules])
sys.exit(code)
"""


def _refuse(folder: Path, text: str | None) -> tuple[Outcome, str]:
    """Run the trainer in a fresh interpreter."""
    if text is not None:
        (folder / "run.json").write_text(text)
    log = folder / "termination-log"
    arguments = ["--run-file", str(folder / "run.json"), "--work-dir", str(folder), "--termination-log", str(log)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 64, done.stderr
    return Outcome.from_termination_message(log.read_text()), done.stdout


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training": {"epochs": 0}}, ["training.epochs", "0"]),
        ({"training": {"learningRate": 0.1}}, ["training.learningRate", '"0.1"']),
        ({"training": {"batchSize": 3, "microBatchSize": 2}}, ["training.batchSize", "multiple"]),
        ({"method": {"rnak": 8}}, ["method.rnak", "unknown field", "8"]),
        ({"output": {"uri": "ftp://x/y"}}, ["output.uri", "ftp://x/y"]),
        ({"version": "finetune.dev/run/v9"}, ["version", "finetune.dev/run/v9"]),
    ],
)
def test_wrong_field(tmp_path: Path, changes: dict[str, object], told: list[str]) -> None:
    """The field and its value are named, with exit code 64, and neither torch nor boto3 is imported for it."""
    outcome, output = _refuse(tmp_path, json.dumps(GOOD | changes))
    assert outcome.reason is Reason.INVALID_CONFIGURATION
    assert all(word in outcome.message for word in told), outcome.message
    assert "heavy: []" in output


@pytest.mark.parametrize("text", [None, "", "{", "[]", "\xff"])
def test_no_run_file(tmp_path: Path, text: str | None) -> None:
    """A missing file and one that is no JSON object are named."""
    outcome, _ = _refuse(tmp_path, text)
    assert outcome.reason is Reason.INVALID_CONFIGURATION
    assert f"{tmp_path}/run.json" in outcome.message


def test_many_problems_fit(tmp_path: Path) -> None:
    """However much is wrong, the message stays readable."""
    outcome, _ = _refuse(tmp_path, json.dumps(GOOD | {"method": {f"field{n}": "x" * 500 for n in range(100)}}))
    assert "and 95 more" in outcome.message


def test_supervisor_never_imports_torch() -> None:
    """Every module of PID 1, but the launcher that is a program of its own, is free of torch and transformers."""
    program = """
import pkgutil, sys, importlib
import finetune_trainer.__main__, finetune_trainer.supervisor as package, finetune_trainer.publish
import finetune_trainer.storage.s3, finetune_trainer.storage.local
for module in pkgutil.iter_modules(package.__path__):
    if module.name != "torchrun":
        importlib.import_module(f"{package.__name__}.{module.name}")
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "peft", "datasets", "numpy"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_help() -> None:
    """--help says where credentials come from and what the exit codes mean."""
    done = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    for word in ("--run-file", "AWS_ACCESS_KEY_ID", "75 preempted", "SIGTERM"):
        assert word in done.stdout
