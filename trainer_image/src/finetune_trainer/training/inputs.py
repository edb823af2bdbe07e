"""Bring model and data here and read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.outcome import DatasetReport
from finetune_trainer.data.collate import Collator
from finetune_trainer.data.dataset import Dataset, load_dataset, show_trained
from finetune_trainer.storage.fetch import fetch_file, fetch_model
from finetune_trainer.training.model import check_files, load_tokenizer
from finetune_trainer.training.session import Session


@dataclass(frozen=True)
class Inputs:
    """Everything that is read before the model is loaded."""

    revision: str
    """Commit of an hf:// model; empty elsewhere, and in all processes but the first."""
    tokenizer: Any
    train: Dataset
    evaluation: Dataset | None
    sha256: str
    """Of the training file; empty in all processes but the first."""

    @property
    def collator(self) -> Collator:
        """Pads with whatever id the tokenizer has for it."""
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return Collator(pad if pad is not None else end if end is not None else 0)

    @property
    def report(self) -> DatasetReport:
        """What was seen of the dataset."""
        evaluation = self.evaluation or Dataset([], 0)
        return DatasetReport(
            sha256=self.sha256,
            rows=len(self.train.rows),
            evaluation_rows=len(evaluation.rows),
            tokens=self.train.tokens,
            trained_tokens=self.train.trained_tokens,
            dropped_rows=self.train.dropped + evaluation.dropped,
        )


def bring_inputs(session: Session) -> Inputs:
    """Download (first process only), then read and tokenise in every process: the same work, the same result.

    The dataset comes first: it is small, and most mistakes are in it.

    Raises:
        RunError: A reason of model, dataset or storage.
    """
    run, processes, say = session.run, session.processes, session.reporter.chatter
    sources = [source.uri for source in (run.dataset.train, run.dataset.evaluation) if source]
    files = [_target(session, number, uri) for number, uri in enumerate(sources)]
    digests = [""] * len(files)
    revision = ""
    if processes.first:
        digests = [fetch_file(uri, run.storage, file, say).sha256 for uri, file in zip(sources, files, strict=True)]
        revision = fetch_model(run.model, run.storage, session.work.model, say)
        check_files(session.work.model)
    processes.barrier()
    tokenizer = load_tokenizer(session.work.model)
    datasets = [load_dataset(file, tokenizer, run.training.max_length, session.reporter.say) for file in files]
    for shown in show_trained(datasets[0].rows, tokenizer):
        session.reporter.say(f"trained is what stands between >>> and <<<: {shown}")
    return Inputs(revision, tokenizer, datasets[0], datasets[1] if len(datasets) > 1 else None, digests[0])


def _target(session: Session, number: int, uri: str) -> Path:
    """A folder per file, so that messages name the file as the user does and two files may share a name."""
    return session.work.data / str(number) / uri.rstrip("/").rsplit("/", 1)[-1]
