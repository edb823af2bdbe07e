"""Bring model and data here and read them."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.outcome import DatasetReport
from finetune_api.v1alpha1 import DataSource
from finetune_trainer.data.collate import Collator
from finetune_trainer.data.containers import reads
from finetune_trainer.data.dataset import Dataset, show_trained
from finetune_trainer.data.key import shard_key
from finetune_trainer.data.options import Options
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.shards import QUARANTINE, open_shards
from finetune_trainer.data.source import DataFile, Source
from finetune_trainer.errors import RunError
from finetune_trainer.storage import Store
from finetune_trainer.storage.fetch import fetch_files, fetch_model
from finetune_trainer.training.model import check_files, load_tokenizer
from finetune_trainer.training.session import Session
from finetune_trainer.workdir import WorkDir


@dataclass(frozen=True)
class Inputs:
    """Everything that is read before the model is loaded."""

    revision: str
    """Commit of an hf:// model; empty elsewhere, and in all processes but the first."""
    tokenizer: Any
    train: Dataset
    evaluation: Dataset | None

    @property
    def collator(self) -> Collator:
        """Pads with whatever id the tokenizer has for it."""
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return Collator(pad if pad is not None else end if end is not None else 0)

    @property
    def report(self) -> DatasetReport:
        """What was seen of the dataset."""
        train = self.train.facts
        both = [train, self.evaluation.facts] if self.evaluation else [train]
        return DatasetReport(
            sha256=train.sha256,
            rows=len(self.train.rows),
            evaluation_rows=len(self.evaluation.rows) if self.evaluation else 0,
            tokens=train.tokens,
            trained_tokens=train.trained_tokens,
            dropped_rows=sum(facts.dropped for facts in both),
            format=train.format,
            truncated_rows=sum(facts.truncated for facts in both),
            unfinished_rows=sum(facts.unfinished for facts in both),
            invalid_rows=sum(facts.invalid for facts in both),
            duplicate_rows=train.duplicates,
            longest_row=train.longest,
            p50_length=train.p50,
            p95_length=train.p95,
            p99_length=train.p99,
        )


def bring_inputs(session: Session, store: Store) -> Inputs:
    """Download, check and tokenise in the first process; then map the rows in every process.

    The dataset comes first: it is small, and most mistakes are in it. Rows that were skipped go to `store`.

    Raises:
        RunError: A reason of model, dataset or storage.
    """
    run, processes, say = session.run, session.processes, session.reporter.chatter
    wanted = [source for source in (run.dataset.train, run.dataset.evaluation) if source]
    folders = [_shards(session.work, number) for number in range(len(wanted))]
    revision = ""
    if processes.first:
        sources = [_fetch(session, number, source) for number, source in enumerate(wanted)]
        revision = fetch_model(run.model, run.storage, session.work.model, say)
        check_files(session.work.model)
        try:
            _prepare(session, sources)
        except RunError:  # too many rows were bad: now they are wanted most
            _upload_quarantine(session, folders, store)
            raise
        _upload_quarantine(session, folders, store)
    processes.barrier()
    tokenizer = load_tokenizer(session.work.model)
    train, *others = [Dataset.open(folder) for folder in folders]
    for shown in show_trained(train.rows, tokenizer):
        session.reporter.say(f"trained is what stands between >>> and <<<: {shown}")
    return Inputs(revision, tokenizer, train, others[0] if others else None)


def _fetch(session: Session, number: int, source: DataSource) -> Source:
    """A folder per source, so that messages name a file as the user does and two sources may share names."""
    target = session.work.data / str(number) / "files"
    fetched = fetch_files(source.uri, session.run.storage, target, session.reporter.chatter, reads)
    files = tuple(DataFile(name, file.path) for name, file in fetched.files.items())
    return Source(files[0].name if len(files) == 1 else source.uri, files, fetched.sha256)


def _prepare(session: Session, sources: list[Source]) -> None:
    """Write the shards that are not there already: a run that is tried again on the same disk finds them."""
    tokenizer = None
    for number, source in enumerate(sources):
        options = Options(session.run.dataset, session.run.training.max_length, trains=number == 0)
        folder, key = _shards(session.work, number), shard_key(source, options, session.work.model)
        if open_shards(folder, key):
            session.reporter.say(f"{source.name}: the rows that were tokenised before are used again")
            continue
        tokenizer = tokenizer or load_tokenizer(session.work.model)
        prepare(source, options, tokenizer, folder, key, session.reporter.say)


def _upload_quarantine(session: Session, folders: list[Path], store: Store) -> None:
    """Put the skipped rows of all sources beside the result, also where they were too many."""
    parts = [part for folder in folders if (part := folder / QUARANTINE).exists()]
    if not parts:
        return
    with session.work.quarantine.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
    store.upload(session.work.quarantine, f".finetune/{session.run.uid}/quarantine.jsonl")


def _shards(work: WorkDir, number: int) -> Path:
    return work.data / str(number) / "rows"
