"""The `prepare` stage: all that can be known of the data before a GPU is asked for."""

from finetune_api.names import ActiveReason
from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_trainer.data.dataset import Dataset, report, shown
from finetune_trainer.extensions import check_extensions, check_image
from finetune_trainer.preparation.content import base_files, content_hash
from finetune_trainer.preparation.published import find_published
from finetune_trainer.preparation.rows import Rows, weighted, write_rows
from finetune_trainer.preparation.stored import StoredRows
from finetune_trainer.storage import open_store
from finetune_trainer.storage.fetch import fetch_model, pinned
from finetune_trainer.tokenizer import load_tokenizer
from finetune_trainer.training.reporter import Reporter
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir


def execute(run: RunFile, work: WorkDir, stop: StopSwitch) -> Outcome:
    """Download, check and tokenise the rows, and put them into storage; nothing of it where the result is there.

    Raises:
        RunError: What is wrong with dataset, tokenizer or storage.
        Stopped: Somebody asked the run to stop.
    """
    reporter = Reporter(run.name, work, talks=True)
    reporter.phase(ActiveReason.PREPARING, "preparing the dataset")
    check_image(run)
    store = open_store(run.output.uri, run.storage)
    rows, stored = Rows(run, work, reporter.say, reporter.chatter), StoredRows(store, run.uid, reporter.chatter)
    rows.fetch()
    run = run.model_copy(update={"model": pinned(run.model, run.storage)})
    base = base_files(run)
    commit = fetch_model(run.model, run.storage, work.model, reporter.chatter, weights=False)
    stop.check()
    keys = rows.keys()
    published = None if run.rerun else find_published(store, content_hash(run, base, keys), reporter.say)
    if published:
        return published
    there = stored.keys() == keys and stored.restore(rows.folders, work.staging)
    if there:
        reporter.say("an earlier attempt has prepared these very rows")
        rows.upload_report(store)
    else:
        write_rows(rows, store)
    train, *others = [Dataset.open(folder) for folder in rows.folders]
    for sentence in shown(train, load_tokenizer(work.model), run.task.type):
        reporter.say(sentence)
    weighted(run, train, reporter.say)
    stop.check()
    from finetune_trainer.preparation.memory import check_memory  # noqa: PLC0415 - bad rows shall not wait for torch
    from finetune_trainer.preparation.model import check_model  # noqa: PLC0415
    from finetune_trainer.training.extra import extra_arguments  # noqa: PLC0415

    extra_arguments(run.training.extra_arguments)
    check_extensions(run.extensions)
    check_model(run, work, [train, *others])
    memory, size = check_memory(run, work, train.facts, reporter.say) or (None, None)
    if memory:
        reporter.say(f"training will take about {memory}; {size} sequences in a micro-batch")
    stop.check()
    if not there:
        reporter.say(f"putting the prepared rows into {store.uri}")
        stored.save(rows.folders, keys, work.staging)
    found = report(train, others[0] if others else None, commit)
    message = f"{found.rows} rows are ready, {found.tokens} tokens, {found.trained_tokens} of them trained"
    return Outcome(
        reason=Reason.PREPARED,
        message=message,
        dataset=found,
        estimated_memory_bytes=memory.total if memory else None,
        micro_batch_size=size if run.training.auto_micro_batch_size else None,
    )
