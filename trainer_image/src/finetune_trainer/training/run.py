"""The story of one run: fetch, read, train, save, verify, publish."""

import gc
import resource

import torch

from finetune_api.names import ActiveReason
from finetune_api.outcome import Artifact, Outcome, Reason
from finetune_api.v1alpha1 import MethodType
from finetune_trainer.methods.quantization import compute_dtype, stored_dtype
from finetune_trainer.preparation.stored import StoredRows
from finetune_trainer.publish import CheckpointStore, publish
from finetune_trainer.sharding.fsdp import shares_of
from finetune_trainer.storage import Store, open_store
from finetune_trainer.training.adapter import bring_adapter
from finetune_trainer.training.card import facts, model_card
from finetune_trainer.training.fit import Fitted, fit
from finetune_trainer.training.inputs import Inputs, bring_inputs
from finetune_trainer.training.model import load_base
from finetune_trainer.training.preflight import check_configuration
from finetune_trainer.training.session import Session
from finetune_trainer.verify import check_model, check_reload, check_weights


def execute(session: Session) -> Outcome:
    """Take a run file to its verified, published adapter.

    Raises:
        RunError: Why there is no adapter.
        Stopped: Somebody asked the run to stop.
    """
    run, reporter, processes = session.run, session.reporter, session.processes
    check_configuration(session)
    store = open_store(run.output.uri, run.storage)  # PID 1 has checked that it can be written
    inputs = bring_inputs(session, store)
    session = bring_adapter(session)
    run = session.run
    checkpoints = CheckpointStore(store, run.uid, reporter.chatter)
    fitted = fit(session, inputs, checkpoints, session.work.adapter)
    _free_memory()
    artifact = None
    processes.barrier()  # the first one has saved
    if processes.first or shares_of(run) > 1:
        _verify(session, fitted)
    if processes.first:
        artifact = _publish(session, inputs, fitted, store)
        StoredRows(store, run.uid, reporter.chatter).clear()
    processes.barrier()
    return Outcome(
        reason=Reason.PUBLISHED,
        message=_summary(run.output.uri, fitted),
        step=fitted.step,
        artifact=artifact,
        dataset=inputs.report,
        loss_before=fitted.before.loss if fitted.before else None,
        loss_after=fitted.after.loss if fitted.after else None,
        peak_memory_bytes=peak_memory(),
    )


def _verify(session: Session, fitted: Fitted) -> None:
    """Load what was saved into a fresh base model and compare it with what was trained.

    A base that no process can hold alone is shared out again: all of them verify.
    """
    run, work, device = session.run, session.work, session.processes.device()
    session.reporter.phase(ActiveReason.PUBLISHING, "checking the saved adapter on a fresh base model")
    check_weights(work.adapter, fitted.start)
    dtype = compute_dtype(run.training.precision)
    if run.method.type is MethodType.FULL:
        whole = load_base(work.adapter, run.method, stored_dtype(run.method, dtype), device)
        session.reporter.say(check_model(whole, fitted.probe, device, dtype))
        return
    base = load_base(work.model, run.method, dtype, device, shares_of(run))
    session.reporter.say(check_reload(base, work.adapter, fitted.probe, device))


def _publish(session: Session, inputs: Inputs, fitted: Fitted, store: Store) -> Artifact:
    run, reporter = session.run, session.reporter
    record = facts(run, inputs, fitted)
    (session.work.adapter / "README.md").write_text(model_card(run, inputs, fitted, record))
    if reporter.metrics_file.exists():
        store.upload(reporter.metrics_file, f".finetune/{run.uid}/metrics.jsonl")
    reporter.phase(ActiveReason.PUBLISHING, f"publishing to {run.output.uri}")
    return publish(session.work.adapter, store, record, reporter.chatter)


def _summary(uri: str, fitted: Fitted) -> str:
    if fitted.before is None or fitted.after is None:
        return f"the adapter is published at {uri}"
    return f"the adapter is published at {uri}; evaluation loss {fitted.before.loss:.4f} -> {fitted.after.loss:.4f}"


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
