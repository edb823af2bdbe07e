"""Runs of the tiny model in this process: importing torch once per test would take longer than all the training."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_api.outcome import Outcome
from finetune_api.run import RunFile
from finetune_trainer.publish import CheckpointStore, Outbox
from finetune_trainer.storage import Store, open_store
from finetune_trainer.supervisor.uploads import Uploads
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


@contextmanager
def uploading(run: RunFile, work: Path, store: Store | None = None) -> Iterator[Uploads]:
    """PID 1's part in a run, in this process: the newest checkpoint is in storage at the end."""
    store = store or open_store(run.output.uri, run.storage)
    checkpoints = CheckpointStore(store, run.uid, lambda _: None)
    uploads = Uploads(Outbox(WorkDir(work).outbox), checkpoints, run.training.checkpoints.keep)
    uploads.start()
    try:
        yield uploads
    finally:
        uploads.finish(time.sleep, None, 0)
        uploads._over.set()  # a process has one; a second one on the same folder would take the next run's checkpoints
        uploads._thread.join()


def execute(run: RunFile, work: Path) -> Outcome:
    """Take the run to its end."""
    from finetune_trainer.training.run import execute as execute_session

    with uploading(run, work) as uploads:
        outcome = execute_session(session(run, work))
        uploads.discard()
        return outcome
