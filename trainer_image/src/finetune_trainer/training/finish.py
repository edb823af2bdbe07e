"""From the saved adapter to the published one: merged where it is wanted, uploaded, downloaded again, and verified."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from finetune_api.names import ActiveReason
from finetune_api.outcome import Artifact, Reason
from finetune_api.v1alpha1 import MethodType
from finetune_trainer.errors import RunError
from finetune_trainer.methods.quantization import compute_dtype, stored_dtype
from finetune_trainer.publish import publish
from finetune_trainer.publish.manifest import BrokenFolderError, restore_files
from finetune_trainer.publish.vllm import check_vllm
from finetune_trainer.sharding.fsdp import shares_of
from finetune_trainer.storage import Store
from finetune_trainer.training.card import facts, model_card
from finetune_trainer.training.fit import Fitted
from finetune_trainer.training.inputs import Inputs
from finetune_trainer.training.merge import FOLDER, Merged, merge
from finetune_trainer.training.model import linear_layers, load_base
from finetune_trainer.training.session import Session
from finetune_trainer.verify import check_model, check_reload, check_weights


@dataclass(frozen=True)
class Finished:
    """What a run leaves in storage."""

    artifact: Artifact
    merged: Merged | None


def finish(session: Session, inputs: Inputs, fitted: Fitted, store: Store) -> Finished:
    """Verify and publish what `fit` has saved; first process only.

    Raises:
        RunError: VerificationFailed, InvalidConfiguration for an adapter that vLLM does not serve, or what the storage
            says. An older result at the target stays where the saved files themselves are wrong.
    """
    check_saved(session, fitted)
    merged = _merge(session, inputs, fitted)
    return Finished(_publish(session, inputs, fitted, merged, store), merged)


def check_saved(session: Session, fitted: Fitted) -> None:
    """What the files alone can tell, before anything is uploaded; a whole model is loaded as well.

    Raises:
        RunError: VerificationFailed, or InvalidConfiguration for an adapter that vLLM does not serve.
    """
    run, work, device = session.run, session.work, session.processes.device()
    session.reporter.phase(ActiveReason.PUBLISHING, "checking what was saved")
    check_weights(work.adapter, fitted.start)
    if run.output.vllm:
        session.reporter.say(check_vllm(work.adapter, linear_layers(work.model), run.output.vllm.max_lora_rank))
    if run.method.type is MethodType.FULL:  # as large as the base: one download more is too much for the disk
        dtype = compute_dtype(run.training.precision)
        whole = load_base(
            work.adapter,
            run.method,
            stored_dtype(run.method, dtype),
            device,
            fitted.probe.task,
            factory=run.extensions.model,
        )
        session.reporter.say(check_model(whole, fitted.probe, device, dtype))


def check_together(session: Session, fitted: Fitted) -> None:
    """Load what was saved into a base that no process can hold alone: each has its share, and all verify.

    Raises:
        RunError: VerificationFailed.
    """
    run, device = session.run, session.processes.device()
    session.reporter.phase(ActiveReason.PUBLISHING, "checking the saved adapter on a fresh base model, shared out")
    dtype = compute_dtype(run.training.precision)
    base = load_base(session.work.model, run.method, dtype, device, shares=shares_of(run))
    session.reporter.say(check_reload(base, session.work.adapter, fitted.probe, device))


def _merge(session: Session, inputs: Inputs, fitted: Fitted) -> Merged | None:
    wanted = session.run.output.merge
    if wanted is None or fitted.before is None or fitted.after is None:
        return None
    merged = merge(session, inputs, wanted, fitted.before, fitted.after)
    if merged.refused:
        shutil.rmtree(session.work.adapter / FOLDER)
    return merged


def _publish(session: Session, inputs: Inputs, fitted: Fitted, merged: Merged | None, store: Store) -> Artifact:
    run, reporter = session.run, session.reporter
    record = facts(run, inputs, fitted, merged)
    card = model_card(run, inputs, fitted, record, session.work.adapter)
    (session.work.adapter / "README.md").write_text(card)
    if reporter.metrics_file.exists():
        store.upload(reporter.metrics_file, f".finetune/{run.uid}/metrics.jsonl")
    reporter.phase(ActiveReason.PUBLISHING, f"publishing to {run.output.uri}")
    verify = partial(_check_published, session, fitted, store)
    return publish(session.work.adapter, store, record, reporter.chatter, verify)


def _check_published(session: Session, fitted: Fitted, store: Store, digests: Mapping[str, str]) -> None:
    """Download the adapter again, load it into a fresh base model, and compare it with what was trained."""
    run, work, device = session.run, session.work, session.processes.device()
    if run.method.type is MethodType.FULL:
        return
    session.reporter.say("downloading the adapter again, to check it on a fresh base model")
    flat = {path: digest for path, digest in digests.items() if "/" not in path}  # the merged model was measured
    shutil.rmtree(work.published, ignore_errors=True)
    try:
        restore_files(store, "", flat, work.published, session.reporter.chatter)
    except BrokenFolderError as error:
        raise RunError(
            Reason.VERIFICATION_FAILED,
            f"what was uploaded to {store.uri} is something else when it is downloaded: {error}",
            "The storage changed the object, or somebody else writes to the same prefix.",
        ) from None
    if shares_of(run) == 1:  # else these very bytes were checked by all processes together
        dtype = compute_dtype(run.training.precision)
        base = load_base(work.model, run.method, dtype, device, fitted.probe.task, factory=run.extensions.model)
        session.reporter.say(check_reload(base, work.published, fitted.probe, device))
    shutil.rmtree(work.published)
