"""Train: base model and adapter in, losses and a probe of the trained model out. The model itself is let go."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PrinterCallback

from finetune_api.names import ActiveReason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import MethodType
from finetune_trainer.methods.adalora import orthogonality_penalty
from finetune_trainer.methods.adapter import add_adapter, keeper, load_checkpoint, save_adapter, save_start
from finetune_trainer.methods.given import load_given
from finetune_trainer.methods.quantization import compute_dtype, stored_dtype
from finetune_trainer.methods.start import Start, start_of
from finetune_trainer.preparation.model import check_vocabulary
from finetune_trainer.publish import CheckpointStore, Outbox
from finetune_trainer.sharding import zero
from finetune_trainer.sharding.fsdp import shares_of
from finetune_trainer.sharding.gathering import whole_parameters
from finetune_trainer.sharding.strategy import strategy_of
from finetune_trainer.tasks.measure import measure
from finetune_trainer.tasks.task import Task
from finetune_trainer.training.arguments import training_arguments
from finetune_trainer.training.batches import Batches, batches
from finetune_trainer.training.callbacks import ReportCallback, StopCallback, TimedCheckpointCallback
from finetune_trainer.training.divergence import Divergence
from finetune_trainer.training.guard import DivergenceCallback, check_evaluation
from finetune_trainer.training.headconfig import save_head_config
from finetune_trainer.training.held_out import HeldOut, read_state
from finetune_trainer.training.hooks import Metrics, callbacks, hears_of_saves
from finetune_trainer.training.inputs import Inputs
from finetune_trainer.training.model import load_base
from finetune_trainer.training.paths import choose_paths
from finetune_trainer.training.saving import Saver, WrittenFirst, written_beside
from finetune_trainer.training.schedule import Schedule, ScheduleCallback, evaluations
from finetune_trainer.training.scores import Scores
from finetune_trainer.training.session import Session
from finetune_trainer.training.trackers import take_checkpoints, trackers
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
    """Of what is published."""
    published: int
    """The step whose weights are published: the last one, or that of the best evaluation."""
    start: Start
    probe: Probe


def fit(session: Session, inputs: Inputs, checkpoints: CheckpointStore, adapter: Path) -> Fitted:
    """Train from the newest checkpoint or from the start, and save the adapter's weights to `adapter`.

    Raises:
        RunError: NonFiniteLoss, InvalidConfiguration where rows cannot be packed, or a reason of model or storage.
        Stopped: After the checkpoint of the last step is in the outbox.
    """
    run, reporter, processes = session.run, session.reporter, session.processes
    task, seed = inputs.task, run.training.seed
    reporter.say("loading the base model")
    dtype = compute_dtype(run.training.precision)
    stored = stored_dtype(run.method, dtype)
    base = load_base(
        session.work.model, run.method, stored, processes.device(), task, seed, run.extensions.model, shares_of(run)
    )
    session.stop.check()
    check_vocabulary(base, [inputs.train, *([inputs.evaluation] if inputs.evaluation else [])])
    # Before the adapter comes: some methods take their start out of the base.
    data = batches(session, inputs)
    held_out = HeldOut(session)
    metrics = Metrics(session, inputs.tokenizer, inputs.evaluation.rows if inputs.evaluation else None)
    before = _evaluate(session, task, data, metrics, base, "the base model")
    held_out.check(before)
    batch = task.collator(inputs.train.rows.shortest(PROBE_ROWS))
    base_logits = logits(base, batch, processes.device(), dtype, task)
    model = add_adapter(base, run.method, seed, task)
    if run.model.adapter:
        load_given(model, session.work.given_adapter)
    reporter.say(_describe(model))
    start = start_of(model, run.method)
    if processes.first:
        save_start(model, run.method, session.work.start)
    kept = keeper(model, run.method)
    with torch.autocast(processes.device().type, dtype=dtype, enabled=dtype is not torch.float32):  # as in training
        paths = choose_paths(session, model, inputs.train.rows.shortest(PROBE_ROWS))
    keepers = [kept] if kept else []
    trainer = _trainer(session, inputs, data, metrics, model, dtype, held_out, keepers)
    checkpoint = _newest_checkpoint(session, checkpoints)

    def evaluate(whose: str, weights: Path | None = None) -> Scores | None:
        if weights is not None:
            load_checkpoint(model, kept, weights)
        with torch.autocast(processes.device().type, dtype=dtype, enabled=dtype is not torch.float32):  # as in training
            return _evaluate(session, task, data, metrics, model, whose)

    if checkpoint is not None:
        held_out.resume(checkpoint, evaluate)
    with session.stop.deferred():
        step, history = _train(session, trainer, held_out, checkpoint)
    if strategy_of(run).is_zero:
        zero.forget()
    after, published = held_out.settle(step, history, evaluate)
    if kept:
        kept.finish()
    paths.turn_off()  # what is saved is compared with plain peft
    trained = Probe(batch, logits(model, batch, processes.device(), dtype, task), base_logits, task)
    with whole_parameters(model):
        if processes.first or (shares_of(run) > 1 and processes.leads):  # every node takes part in the check
            _save(session, inputs, model, adapter)
    return Fitted(step, before, after, published, start, trained)


def _trainer(
    session: Session,
    inputs: Inputs,
    data: Batches,
    metrics: Metrics,
    model: Any,
    dtype: torch.dtype,
    held_out: HeldOut,
    keepers: list[Any],
) -> Any:
    run, processes = session.run, session.processes
    divergence, foreign = _divergence(run), callbacks(session)
    files_wanted = any(map(hears_of_saves, foreign)) or take_checkpoints(run.training.trackers)
    saver = Saver(
        Outbox(session.work.outbox),
        session.reporter,
        processes,
        beside=written_beside(run, processes),
        parts=[*keepers, *held_out.parts],
        good=lambda: not divergence.suspected,
    )
    strategy = strategy_of(run)
    if strategy.is_zero:
        zero.prepare(model, processes.device(), dtype)
    arguments = training_arguments(run, session.work.checkpoints, dtype, strategy)
    trainer = SupervisedTrainer(
        session=session,
        saver=saver,
        evaluation_batch_size=run.evaluation.batch_size,
        measure=metrics.measure,
        penalty=orthogonality_penalty if run.method.type is MethodType.ADALORA else None,
        rows=inputs.train.rows,
        task=inputs.task,
        model=model,
        args=arguments,
        data_collator=data.collator,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        callbacks=[
            *keepers,
            *held_out.callbacks,
            ReportCallback(session.reporter),
            ScheduleCallback(evaluations(run), Schedule(epochs=run.training.checkpoints.every_epochs)),
            *([WrittenFirst(saver)] if files_wanted else []),
            *foreign,
            *trackers(session),
            StopCallback(session.stop, processes),
            *_timed_checkpoints(session),
        ],
    )
    trainer.add_callback(DivergenceCallback(divergence, lambda: trainer.step_batches, inputs.train.rows))
    trainer.remove_callback(PrinterCallback)  # the reporter says it in sentences
    return trainer


def _divergence(run: RunFile) -> Divergence:
    limits = run.training.divergence
    return Divergence(float(limits.factor), limits.steps, run.training.logging_steps)


def _timed_checkpoints(session: Session) -> list[TimedCheckpointCallback]:
    seconds = session.run.training.checkpoints.every_seconds
    return [TimedCheckpointCallback(seconds, session.processes)] if seconds else []


def _newest_checkpoint(session: Session, checkpoints: CheckpointStore) -> Path | None:
    """The newest checkpoint in storage, downloaded. What an older run left on this disk does not count.

    The first process finds out which one is whole; every other node takes the same.
    """
    folder, processes = session.work.checkpoints, session.processes
    step = 0
    if processes.leads:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if processes.first and (found := checkpoints.restore_newest(folder)):
        step = int(found.name.rpartition("-")[2])
    step = round(processes.sum(step))
    if step and processes.leads and not processes.first:
        checkpoints.restore(step, folder)
    processes.barrier()
    return folder / f"checkpoint-{step}" if step else None


def _train(
    session: Session, trainer: Any, held_out: HeldOut, checkpoint: Path | None
) -> tuple[int, list[dict[str, Any]]]:
    """Run the loop to its end; return the step reached, and the Trainer's log."""
    if checkpoint is not None:
        state = read_state(checkpoint)
        if held_out.over(state):
            # Trained to the end, cut off before it was published. The Trainer would go one step too far here.
            session.reporter.start_training(state["global_step"], state["max_steps"], state["log_history"])
            return int(state["global_step"]), state["log_history"]
        if (of := len(list(checkpoint.glob("rng_state*.pth")))) != session.processes.world:
            session.reporter.say(
                f"the checkpoint is of {of} processes, and now there are {session.processes.world}: dropout goes on "
                "with other random numbers, all else as it was"
            )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return int(trainer.state.global_step), trainer.state.log_history


def _evaluate(session: Session, task: Task, data: Batches, metrics: Metrics, model: Any, whose: str) -> Scores | None:
    if data.evaluation is None:
        return None
    reporter = session.reporter
    what = "packs" if session.run.training.packing else "rows"
    reporter.phase(ActiveReason.EVALUATING, f"evaluating {whose} on {len(data.evaluation)} held-out {what}")
    batch_size = session.run.evaluation.batch_size
    scores = measure(
        task,
        model,
        data.evaluation,
        data.collator,
        batch_size,
        session.processes,
        lambda done: reporter.chatter(f"evaluating {whose}: {done} {what} done"),
    )
    check_evaluation(scores.loss, whose)
    scores = scores.beside(metrics.measure(model))
    told = "".join(f", {name} {value:.4f}" for name, value in scores.metrics.items())
    reporter.say(f"evaluation loss of {whose}: {scores.loss:.4f}{told}")
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
    if inputs.task.kind.has_head:
        save_head_config(model, inputs, folder)
    inputs.tokenizer.save_pretrained(folder)


def _describe(model: Any) -> str:
    if not isinstance(model, PeftModel):
        return f"all {model.num_parameters()} parameters are trained"
    trained, total = model.get_nb_trainable_parameters()
    return f"the adapter has {trained} parameters, {100 * trained / total:.2f} % of the model's {total}"
