"""Download the dataset, look at every row, and write the tokens into the scratch folder."""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import DataSource, TaskType
from finetune_trainer.data.containers import reads
from finetune_trainer.data.dataset import Dataset
from finetune_trainer.data.key import shard_key
from finetune_trainer.data.options import Options
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.report import joined
from finetune_trainer.data.shards import QUARANTINE, REPORT, open_shards
from finetune_trainer.data.source import DataFile, Source
from finetune_trainer.errors import RunError
from finetune_trainer.preparation.positions import row_limit
from finetune_trainer.storage import Store
from finetune_trainer.storage.fetch import fetch_files
from finetune_trainer.tokenizer import length_limit, load_tokenizer
from finetune_trainer.workdir import WorkDir

Say = Callable[[str], None]


class Rows:
    """The sources of one run, training rows first, and their shards in the scratch folder."""

    def __init__(self, run: RunFile, work: WorkDir, say: Say, chatter: Say) -> None:
        self._run = run
        self._work = work
        self._say = say
        self._chatter = chatter
        self._wanted = [source for source in (run.dataset.train, run.dataset.evaluation) if source]
        self._sources: list[Source] = []

    @property
    def folders(self) -> list[Path]:
        """Where the shards of each source are, or will be."""
        return [self._work.data / str(number) / "rows" for number in range(len(self._wanted))]

    def fetch(self) -> None:
        """Download the sources.

        Raises:
            RunError: DatasetNotFound, or what the storage says.
        """
        self._sources = [self._fetch(number, source) for number, source in enumerate(self._wanted)]

    def keys(self) -> list[str]:
        """What decides the shards of each source; the sources and the tokenizer's files are here."""
        keys: list[str] = []
        for source, options in zip(self._sources, self._options(), strict=True):
            keys.append(shard_key(source, options, self._work.model, keys[0] if keys else ""))
        return keys

    def write(self) -> None:
        """Write the shards that are not there already: a run that is tried again on the same disk finds them.

        Raises:
            RunError: What is wrong with the rows, or with the tokenizer.
        """
        tokenizer: Any = None
        places = zip(self._sources, self._options(), self.keys(), self.folders, strict=True)
        for source, options, key, folder in places:
            if open_shards(folder, key):
                self._say(f"{source.name}: the rows that were tokenised before are used again")
                continue
            tokenizer = tokenizer or load_tokenizer(self._work.model)
            prepare(source, self._known(options, tokenizer), tokenizer, folder, key, self._say)

    def _known(self, options: Options, tokenizer: Any) -> Options:
        """The options with what model and training rows say: how long a row may be, and the labels."""
        limit, wanted = options.max_length, self._run.training.max_length
        if options.task.type is not TaskType.CAUSAL_LM:
            limit = length_limit(self._work.model, tokenizer, wanted)
        if limit < wanted:
            self._say(f"rows may have {limit} tokens, not training.maxLength {wanted}: the model takes no more")
        if options.task.type is TaskType.CAUSAL_LM:
            return options
        labels = options.task.labels
        if options.task.type.has_labels and not options.trains and labels is None:
            labels = Dataset.open(self.folders[0]).facts.labels
        return replace(options, max_length=limit, labels=labels)

    def upload_quarantine(self, store: Store) -> None:
        """Put the skipped rows of all sources beside the result."""
        parts = [part for folder in self.folders if (part := folder / QUARANTINE).exists()]
        if not parts:
            return
        with self._work.quarantine.open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)
        store.upload(self._work.quarantine, f".finetune/{self._run.uid}/quarantine.jsonl")

    def upload_report(self, store: Store) -> None:
        """Put what was found in all sources beside the result, where their shards know it."""
        found = joined(dict(zip(("train", "evaluation"), self.folders, strict=False)))
        if found:
            path = f".finetune/{self._run.uid}/{REPORT}"
            store.write(path, found)
            self._say(f"what was found in the rows is in {store.uri}/{path}")

    def _fetch(self, number: int, source: DataSource) -> Source:
        """A folder per source, so that messages name a file as the user does and two sources may share names."""
        target = self._work.data / str(number) / "files"
        if not source.more:
            return self._bring(source.uri, target)
        brought = [self._bring(uri, target / str(place), place) for place, uri in enumerate(source.uris)]
        digests = "".join(f"{each.sha256}\n" for each in brought)
        pairs = list(zip(source.uris, brought, strict=True))
        return Source(
            f"{source.uri} and {len(source.more)} more",
            tuple(replace(file, name=_within(uri, file.name)) for uri, each in pairs for file in each.files),
            hashlib.sha256(digests.encode()).hexdigest(),
            tuple(_within(uri, name) for uri, each in pairs for name in each.left_alone),
        )

    def _bring(self, uri: str, target: Path, place: int = 0) -> Source:
        fetched = fetch_files(uri, self._run.storage, target, self._chatter, reads)
        if others := fetched.left_alone:
            self._say(f"{len(others)} files below {uri} are left alone, for instance {others[0]}: name one to read it")
        files = tuple(DataFile(name, file.path, place) for name, file in fetched.files.items())
        return Source(files[0].name if len(files) == 1 else uri, files, fetched.sha256, fetched.left_alone)

    def _options(self) -> list[Options]:
        run, limit = self._run, row_limit(self._run, self._work.model)
        return [Options(run.dataset, limit, trains=number == 0, task=run.task) for number in range(len(self._wanted))]


def _within(uri: str, name: str) -> str:
    """A file's whole URI: several sources may share names."""
    return f"{uri.rpartition('/')[0]}/{name}"


def write_rows(rows: Rows, store: Store) -> None:
    """Write all of `rows`; what was found and what was skipped go to `store`."""
    try:
        rows.write()
    except RunError:  # too many rows were bad: now they are wanted most
        rows.upload_quarantine(store)
        with suppress(RunError):  # the verdict is the same without
            rows.upload_report(store)
        raise
    rows.upload_quarantine(store)
    rows.upload_report(store)


def weighted(run: RunFile, train: Dataset, say: Say) -> Dataset:
    """The rows of an epoch, where sources have weights.

    Raises:
        RunError: EmptyDataset where the weights leave none.
    """
    weights = run.dataset.train.weights
    rows = train.rows.weighted(weights, run.training.seed)
    if rows is not train.rows:
        if not len(rows):
            raise RunError(
                Reason.EMPTY_DATASET,
                f"an epoch has no row: {train.rows.stored} rows with weights {weights}",
                "Raise dataset.train.weight.",
            )
        say(f"an epoch has {len(rows)} rows: {train.rows.stored} rows with weights {', '.join(map(str, weights))}")
    return replace(train, rows=rows)
