"""Bring model and data here and read them."""

from dataclasses import dataclass
from typing import Any

from finetune_api.outcome import DatasetReport, Reason
from finetune_trainer.data.dataset import Dataset, report, shown
from finetune_trainer.errors import RunError
from finetune_trainer.preparation.content import base_files, content_hash
from finetune_trainer.preparation.rows import Rows, weighted, write_rows
from finetune_trainer.preparation.stored import StoredRows
from finetune_trainer.storage import Store
from finetune_trainer.storage.fetch import fetch_model, pinned
from finetune_trainer.tasks.choose import task_of
from finetune_trainer.tasks.task import Task
from finetune_trainer.tokenizer import load_tokenizer
from finetune_trainer.training.model import check_files
from finetune_trainer.training.session import Session


@dataclass(frozen=True)
class Inputs:
    """Everything that is read before the model is loaded."""

    revision: str
    """Commit of an hf:// model; empty elsewhere, and in all processes but the first."""
    content: str
    """See `content_hash`; empty likewise."""
    tokenizer: Any
    train: Dataset
    evaluation: Dataset | None

    task: Task
    """What the run learns to do."""

    @property
    def report(self) -> DatasetReport:
        """What was seen of the dataset."""
        return report(self.train, self.evaluation, self.revision)


def bring_inputs(session: Session, store: Store) -> Inputs:
    """Bring rows and model here in the first process of each node; then map the rows in every process.

    The rows come from where the `prepare` stage has put them. Where there was none the first process makes them, once,
    and stores them for the other nodes. Rows that were skipped go to `store`.

    Raises:
        RunError: A reason of model, dataset or storage.
    """
    run, work, processes, reporter = session.run, session.work, session.processes, session.reporter
    rows = Rows(run, work, reporter.say, reporter.chatter)
    stored, revision = StoredRows(store, run.uid, reporter.chatter), ""
    content = ""

    if processes.first:
        prepared = stored.restore(rows.folders, work.staging)
        if not prepared:
            rows.fetch()  # before the model: a dataset is small beside it, and most mistakes are in it
        model = pinned(run.model, run.storage)
        base = base_files(run.model_copy(update={"model": model}))
        revision = fetch_model(model, run.storage, work.model, reporter.chatter)
        check_files(work.model)
        content = content_hash(run, base, stored.keys() if prepared else rows.keys())
        if not prepared:
            write_rows(rows, store)
            if processes.nodes > 1:
                stored.save(rows.folders, rows.keys(), work.staging)
    elif processes.leads:
        fetch_model(run.model, run.storage, work.model, reporter.chatter)
        check_files(work.model)
    processes.barrier()
    if processes.leads and not processes.first and not stored.restore(rows.folders, work.staging):
        message = f"the rows that the first node has stored in {store.uri} are not there"
        raise RunError(Reason.STORAGE_UNAVAILABLE, message, "Keep others from deleting below the output prefix.")
    processes.barrier()
    tokenizer = load_tokenizer(work.model)
    train, *others = [Dataset.open(folder) for folder in rows.folders]
    for sentence in shown(train, tokenizer, run.task.type):
        reporter.say(sentence)
    train = weighted(run, train, reporter.say)
    task = task_of(run.task.type, train.facts.labels, tokenizer, work.model, float(run.training.label_smoothing))
    return Inputs(revision, content, tokenizer, train, others[0] if others else None, task)
