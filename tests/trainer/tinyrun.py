"""Runs of the tiny model in this process: importing torch once per test would take longer than all the training."""

import json
from pathlib import Path
from typing import Any

from finetune_api.outcome import Outcome
from finetune_api.run import RunFile
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.reporter import Reporter
from finetune_trainer.training.session import Session
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir
from tests.tiny import jsonl, rows


def run_file(
    folder: Path, model: Path, uid: str = "u1", method: dict[str, Any] | None = None, **training: Any
) -> RunFile:
    """A run of `model` on 20 rows with 6 held-out ones, its output below `folder`; keywords are of spec.training."""
    (folder / "train.jsonl").write_text(jsonl(rows(20)))
    (folder / "eval.jsonl").write_text(jsonl(rows(6, start=100)))
    document = {
        "name": "tiny",
        "namespace": "local",
        "uid": uid,
        "model": {"uri": f"file://{model}"},
        "dataset": {
            "train": {"uri": f"file://{folder}/train.jsonl"},
            "evaluation": {"uri": f"file://{folder}/eval.jsonl"},
        },
        "method": {"rank": 4, "dropout": "0.1", **(method or {})},
        "training": {"batchSize": 4, "microBatchSize": 2, "learningRate": "5e-3", "maxSteps": 6, **training},
        "evaluation": {"batchSize": 4},
        "storage": {},
        "output": {"uri": f"file://{folder}/out"},
    }
    return RunFile.from_json(json.dumps(document))


def session(run: RunFile, work: Path) -> Session:
    """A session of one process."""
    directory = WorkDir(work)
    return Session(run, directory, StopSwitch(), Processes(), Reporter(run.name, directory, talks=True))


def execute(run: RunFile, work: Path) -> Outcome:
    """Take the run to its end."""
    from finetune_trainer.training.run import execute as execute_session

    return execute_session(session(run, work))
