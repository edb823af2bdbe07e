"""Train: base model and adapter in, losses and a probe of the trained model out. The model itself is let go."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PrinterCallback

from finetune_api.names import ActiveReason
from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import MethodType
from finetune_trainer.errors import RunError
from finetune_trainer.methods.adalora import orthogonality_penalty
from finetune_trainer.methods.adapter import add_adapter, keeper, load_checkpoint, save_adapter, save_start
from finetune_trainer.methods.given import load_given
from finetune_trainer.methods.lora import loraplus_optimizer
from finetune_trainer.methods.quantization import compute_dtype, stored_dtype
from finetune_trainer.methods.start import Start, start_of
from finetune_trainer.publish import CheckpointStore, Outbox
from finetune_trainer.sharding import zero
from finetune_trainer.sharding.fsdp import shares_of
from finetune_trainer.sharding.gathering import whole_parameters
from finetune_trainer.sharding.strategy import strategy_of
from finetune_trainer.training.arguments import training_arguments
from finetune_trainer.training.batches import Batches, batches
from finetune_trainer.training.callbacks import (
    CheckpointCallback,
    ReportCallback,
    StopCallback,
    TimedCheckpointCallback,
)
from finetune_trainer.training.divergence import Divergence
from finetune_trainer.training.guard import DivergenceCallback, check_evaluation
from finetune_trainer.training.inputs import Inputs
from finetune_trainer.training.loss import mean_nll
from finetune_trainer.training.model import load_base
from finetune_trainer.training.paths import choose_paths
from finetune_trainer.training.scores import Scores
from finetune_trainer.training.session import Session
from finetune_trainer.training.trainer import SupervisedTrainer
from finetune_trainer.verify import Probe, logits

PROBE_ROWS = 2
"""The shortest rows are enough to tell two adapters apart, and their logits are small."""


@dataclass(frozen=True)
class Fitted:
    """The result of training."""

    step: int
    before: Scores | None
    """Of the base model; None without held-out rows."""
    after: Scores | None
    start: Start
    probe: Probe


def fit(session: Session, inputs: Inputs, checkpoints: CheckpointStore, adapter: Path) -> Fitted:
    """Train from the newest checkpoint or from the start, and save the adapter's weights to `adapter`.

    Raises:
        RunError: NonFiniteLoss, InvalidConfiguration where rows cannot be packed, or a reason of model or storage.
        Stopped: After the checkpoint of the last step is in the outbox.
    """
    run, reporter, processes = session.run, session.reporter, session.processes
    reporter.say("loading the base model")
    dtype = compute_dtype(run.training.precision)
    stored = stored_dtype(run.method, dtype)
    base = load_base(session.work.model, run.method, stored, processes.device(), shares_of(run))
    session.stop.check()
    _check_vocabulary(base, inputs)
    # Before the adapter comes: some methods take their start out of the base.
    data = batches(session, inputs)
    before = _evaluate(session, data, base, "the base model")
    batch = inputs.collator(inputs.train.rows.shortest(PROBE_ROWS))
    base_logits = logits(base, batch, processes.device(), dtype)
    model = add_adapter(base, run.method, run.training.seed)
    if run.model.adapter:
        load_given(model, session.work.given_adapter)
    reporter.say(_describe(model))
    start = start_of(model, run.method)
    if processes.first:
        save_start(model, run.method, session.work.start)
    kept = keeper(model, run.method)
    with torch.autocast(processes.device().type, dtype=dtype, enabled=dtype is not torch.float32):  # as in training
        paths = choose_paths(session, model, inputs.train.rows.shortest(PROBE_ROWS))
    trainer = _trainer(session, inputs, data, model, dtype, kept)
    checkpoint = _newest_checkpoint(session, checkpoints)
    with session.stop.deferred():
        step = _train(session, trainer, model, checkpoint, kept)
    if strategy_of(run).is_zero:
        zero.forget()
    if kept:
        kept.finish()
    after = _evaluate(session, data, model, "the trained model")
    paths.turn_off()  # what is saved is compared with plain peft
    trained = Probe(batch, logits(model, batch, processes.device(), dtype), base_logits)
    with whole_parameters(model):
        if processes.first:
            _save(session, inputs, model, adapter)
    return Fitted(step, before, after, start, trained)


def _trainer(session: Session, inputs: Inputs, data: Batches, model: Any, dtype: torch.dtype, kept: Any) -> Any:
    run, processes = session.run, session.processes
    strategy = strategy_of(run)
    if strategy.is_zero:
        zero.prepare(model, processes.device(), dtype)
    arguments = training_arguments(run, session.work.checkpoints, dtype, strategy)
    trainer = SupervisedTrainer(
        processes=processes,
        evaluation_batch_size=run.evaluation.batch_size,
        penalty=orthogonality_penalty if run.method.type is MethodType.ADALORA else None,
        stop=session.stop,
        reporter=session.reporter,
        rows=inputs.train.rows,
        model=model,
        args=arguments,
        optimizers=(loraplus_optimizer(model, run.method, arguments), None),
        data_collator=data.collator,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        callbacks=[
            *([kept] if kept else []),
            ReportCallback(session.reporter),
            StopCallback(session.stop, processes),
            *_checkpoint_callbacks(session),
        ],
    )
    trainer.remove_callback(PrinterCallback)  # the reporter says it in sentences
    return trainer


def _checkpoint_callbacks(session: Session) -> list[Any]:
    training = session.run.training
    limits, seconds = training.divergence, training.checkpoints.every_seconds
    divergence = Divergence(float(limits.factor), limits.steps, training.logging_steps)
    outbox = Outbox(session.work.outbox)
    return [
        DivergenceCallback(divergence),
        *([TimedCheckpointCallback(seconds, session.processes)] if seconds else []),
        CheckpointCallback(outbox, session.reporter, session.processes, lambda: not divergence.suspected),
    ]


def _check_vocabulary(base: Any, inputs: Inputs) -> None:
    """A token that the model does not have would end in a CUDA assertion that names nothing."""
    known = base.get_input_embeddings().num_embeddings
    largest = inputs.train.facts.largest_token
    if largest >= known:
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"the tokenizer gives token {largest}, but the model knows {known} tokens only",
            "Upload the tokenizer that belongs to the model.",
        )


def _newest_checkpoint(session: Session, checkpoints: CheckpointStore) -> Path | None:
    """The newest checkpoint in storage, downloaded. What an older run left on this disk does not count."""
    folder = session.work.checkpoints
    if session.processes.first:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        checkpoints.restore_newest(folder)
    session.processes.barrier()
    return next(iter(sorted(folder.glob("checkpoint-*"))), None)


def _train(session: Session, trainer: Any, model: Any, checkpoint: Path | None, kept: Any) -> int:
    """Run the loop to its end and return the step reached."""
    if checkpoint is not None:
        state = json.loads((checkpoint / "trainer_state.json").read_bytes())
        session.reporter.saved_step = state["global_step"]
        if state["global_step"] >= state["max_steps"]:
            session.reporter.start_training(state["global_step"], state["max_steps"], state["log_history"])
            # Trained to the end, cut off before it was published. The Trainer would go one step too far here.
            load_checkpoint(model, kept, checkpoint)
            return int(state["global_step"])
        if (of := len(list(checkpoint.glob("rng_state*.pth")))) != session.processes.world:
            session.reporter.say(
                f"the checkpoint is of {of} processes, and now there are {session.processes.world}: dropout goes on "
                "with other random numbers, all else as it was"
            )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return int(trainer.state.global_step)


def _evaluate(session: Session, data: Batches, model: Any, whose: str) -> Scores | None:
    if data.evaluation is None:
        return None
    reporter = session.reporter
    what = "packs" if session.run.training.packing else "rows"
    reporter.phase(ActiveReason.EVALUATING, f"evaluating {whose} on {len(data.evaluation)} held-out {what}")
    batch_size = session.run.evaluation.batch_size
    mean = mean_nll(
        model,
        data.evaluation,
        data.collator,
        batch_size,
        session.processes,
        lambda done: reporter.chatter(f"evaluating {whose}: {done} {what} done"),
    )
    scores = Scores(check_evaluation(mean, whose))
    reporter.say(f"evaluation loss of {whose}: {scores.loss:.4f}")
    return scores


def _save(session: Session, inputs: Inputs, model: Any, folder: Path) -> None:
    """Write adapter and tokenizer as peft and vLLM load them; the base gets the user's name for it, not our disk's."""
    source = session.run.model
    if isinstance(model, PeftModel):
        config = model.peft_config["default"]
        config.base_model_name_or_path = source.uri.removeprefix("hf://")
        config.revision = inputs.revision or source.revision
    shutil.rmtree(folder, ignore_errors=True)
    save_adapter(model, session.run.method, folder, session.work.start)
    inputs.tokenizer.save_pretrained(folder)


def _describe(model: Any) -> str:
    if not isinstance(model, PeftModel):
        return f"all {model.num_parameters()} parameters are trained"
    trained, total = model.get_nb_trainable_parameters()
    return f"the adapter has {trained} parameters, {100 * trained / total:.2f} % of the model's {total}"
