"""The outcome of a run: what the worker wrote, or what the evidence says where it wrote nothing. Never a guess.

The worker knows what it saved on its disk; only PID 1 knows what of it has reached storage, and adds that.
"""

from pydantic import ValidationError

from finetune_api.outcome import ExitCode, Outcome, Reason
from finetune_trainer.supervisor.hang import stands_at
from finetune_trainer.supervisor.story import latest
from finetune_trainer.supervisor.supervise import Ending
from finetune_trainer.supervisor.uploads import Stored
from finetune_trainer.workdir import WorkDir, heard

_LINES = 6


def verdict(ending: Ending, work: WorkDir, oom_kills: int, limit: int | None) -> Outcome:
    """Judge an ended worker, and add the step that it began with.

    Args:
        ending: As seen from outside.
        work: Holds the outcome file, where the worker wrote one.
        oom_kills: Processes of this container that the kernel killed for memory during the run.
        limit: The container's memory limit in bytes.
    """
    progress = latest(work)
    began = progress.resumed_from if progress else None
    return _judged(ending, work, oom_kills, limit).model_copy(update={"resumed_from": began})


def _judged(ending: Ending, work: WorkDir, oom_kills: int, limit: int | None) -> Outcome:
    try:
        told = work.read_outcome() or heard(ending.stderr)
    except (ValidationError, UnicodeDecodeError) as error:
        return Outcome(reason=Reason.INTERNAL_ERROR, message=f"the worker's outcome cannot be read: {error}")
    if told is not None:
        if told.reason is Reason.PEER_LOST and ending.stop:  # who left first was asked to stop, too
            return told.model_copy(update={"reason": Reason.PREEMPTED})
        stopped = told.reason is Reason.PREEMPTED and not ending.stop
        return _peer_lost(told, oom_kills, limit) if stopped else told
    return _untold(ending, _step(work), oom_kills, limit)


def _untold(ending: Ending, step: int, oom_kills: int, limit: int | None) -> Outcome:
    if ending.hang:
        return Outcome(reason=Reason.HANG, message=_hung(ending), hint="The pod's log has all stacks.", step=step)
    if ending.stop:
        return Outcome(reason=Reason.PREEMPTED, message=_stopped(ending), step=step)
    if ending.signal == "SIGKILL" and oom_kills > 0:
        return _out_of_memory(limit, step)
    if ending.alone:
        return Outcome(reason=Reason.PEER_LOST, message=ending.alone, hint="Read the log of that node.", step=step)
    return Outcome(reason=Reason.INTERNAL_ERROR, message=_died(ending), hint="Read the pod's log.", step=step)


def settled(outcome: Outcome, stored: Stored) -> Outcome:
    """The outcome with what storage holds of the run; a stopped run is as far as its checkpoint there."""
    sentences, subject = [outcome.message.rstrip(".")], "the checkpoint"
    if stored.lost_step:
        why = f": {stored.why}" if stored.why else " in time"
        sentences.append(f"the checkpoint of step {stored.lost_step} could not be uploaded{why}".rstrip("."))
        subject = "that"
    kept = stored.good_step if outcome.reason is Reason.DIVERGED and stored.good_step else stored.step
    if kept:
        good = "the last good checkpoint, that"
        subject = good if outcome.reason.exit_code is ExitCode.DIVERGED else subject
        sentences.append(f"{subject} of step {kept} is in storage")
    elif outcome.reason is Reason.PREEMPTED:
        sentences.append(
            f"{'none' if stored.lost_step else 'no checkpoint'} is in storage: the next attempt starts anew"
        )
    changes: dict[str, object] = {"message": "; ".join(sentences)}
    if outcome.reason is Reason.PREEMPTED:
        changes |= {"step": stored.step, "hint": _RESUMES if stored.step else outcome.hint}
    return outcome.model_copy(update=changes)


_RESUMES = "The next attempt goes on from there."


def _hung(ending: Ending) -> str:
    stands = stands_at(ending.stderr)
    return ending.hang + (f"; its main thread stands at {stands}" if stands else "")


def _stopped(ending: Ending) -> str:
    if ending.killed:
        return f"the worker was killed, for {ending.killed}"
    return f"the worker was stopped by {ending.stop} before it could say anything"


def _out_of_memory(limit: int | None, step: int) -> Outcome:
    size = f" of {limit / (1 << 30):.2f} GiB" if limit else ""
    return Outcome(
        reason=Reason.OUT_OF_MEMORY,
        message=f"the kernel killed the worker: the container's memory limit{size} was reached",
        hint="Raise spec.resources.memory, or lower spec.training.microBatchSize or spec.training.maxLength.",
        step=step,
    )


def _peer_lost(told: Outcome, oom_kills: int, limit: int | None) -> Outcome:
    """Nobody asked this run to stop: torchrun stopped the others after one worker had died."""
    if oom_kills > 0:
        return _out_of_memory(limit, told.step)
    message = f"a worker process died and the others were stopped; they say: {told.message}"
    return Outcome(reason=Reason.PEER_LOST, message=message, hint="Read the pod's log.", step=told.step)


def _died(ending: Ending) -> str:
    how = f"was killed by {ending.signal}" if ending.signal else f"ended with exit code {ending.code}"
    last = [line.strip() for line in ending.stderr.replace("\r", "\n").splitlines() if line.strip()][-_LINES:]
    return f"the worker {how} and left no outcome" + (f"; its last lines: {' | '.join(last)}" if last else "")


def _step(work: WorkDir) -> int:
    progress = latest(work)
    return progress.step if progress else 0
