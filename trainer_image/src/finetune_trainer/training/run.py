"""The story of one run: fetch, read, train, save, verify, publish."""

import gc
import resource
from typing import Any

import torch

from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_trainer.debugger import listen
from finetune_trainer.preparation.stored import StoredRows
from finetune_trainer.publish import CheckpointStore
from finetune_trainer.sharding.fsdp import shares_of
from finetune_trainer.storage import open_store
from finetune_trainer.training.adapter import bring_adapter
from finetune_trainer.training.finish import check_together, finish
from finetune_trainer.training.fit import Fitted, fit
from finetune_trainer.training.gate import check_gate
from finetune_trainer.training.inputs import bring_inputs
from finetune_trainer.training.merge import Merged
from finetune_trainer.training.preflight import check_configuration
from finetune_trainer.training.session import Session


def execute(session: Session) -> Outcome:
    """Take a run file to its verified, published adapter.

    Raises:
        RunError: Why there is no adapter.
        Stopped: Somebody asked the run to stop.
    """
    run, reporter, processes = session.run, session.reporter, session.processes
    check_configuration(session)
    if run.debug.debugpy and processes.first:
        listen(run.debug.debugpy, reporter.say)
    processes.barrier()
    store = open_store(run.output.uri, run.storage)  # PID 1 has checked that it can be written
    inputs = bring_inputs(session, store)
    session = bring_adapter(session)
    run = session.run
    checkpoints = CheckpointStore(store, run.uid, reporter.chatter)
    fitted = fit(session, inputs, checkpoints, session.work.adapter)
    _free_memory()
    check_gate(run.evaluation, fitted.before, fitted.after)
    finished = None
    processes.barrier()  # the first one has saved
    if shares_of(run) > 1:
        check_together(session, fitted)
    if processes.first:
        finished = finish(session, inputs, fitted, store)
        StoredRows(store, run.uid, reporter.chatter).clear()
    processes.barrier()
    merged = finished.merged if finished else None
    return Outcome(
        **(_refused(run, merged) if merged and merged.refused else _published(run, fitted)),
        step=fitted.step,
        artifact=finished.artifact if finished else None,
        dataset=inputs.report,
        loss=reporter.progress.loss,
        loss_before=fitted.before.loss if fitted.before else None,
        loss_after=fitted.after.loss if fitted.after else None,
        loss_merged=merged.loss if merged else None,
        metrics_before=dict(fitted.before.metrics) if fitted.before else {},
        metrics_after=dict(fitted.after.metrics) if fitted.after else {},
        peak_memory_bytes=peak_memory(),
    )


def _published(run: RunFile, fitted: Fitted) -> dict[str, Any]:
    message = f"the adapter is published at {run.output.uri}"
    if fitted.before and fitted.after:
        message += f"; evaluation loss {fitted.before.loss:.4f} -> {fitted.after.loss:.4f}"
    if fitted.published != fitted.step:
        message += f" with the best evaluation, that of step {fitted.published}"
    return {"reason": Reason.PUBLISHED, "message": message}


def _refused(run: RunFile, merged: Merged) -> dict[str, Any]:
    """The training was good, the merged model is not: the job fails, and nothing of the training is lost."""
    return {
        "reason": Reason.MERGE_REFUSED,
        "message": f"the adapter alone is published at {run.output.uri}: {merged.refused}",
        "hint": "Set output.merge.dtype: Float32, lower output.merge.minGainKeptPercent, or serve base and adapter.",
    }


def _free_memory() -> None:
    """The trained model is gone, but its reference cycles and the GPU's cache are not."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
