"""Pure: keeps `status.attempts` and the counters. What is recorded as ended stays as it was recorded."""

from datetime import datetime

from finetune_api.names import ActiveReason, ClusterReason, Stage
from finetune_api.outcome import FollowUp, Reason
from finetune_api.status import MAX_ATTEMPTS_LISTED, AttemptStatus, Status
from finetune_operator import accounting, report
from finetune_operator.evidence import Ending
from finetune_operator.observe import STAGES, Attempt, Observed

JOB_DELETED = Ending(
    ClusterReason.JOB_DELETED, "its Job was deleted before it ended; the attempt counts as failed", FollowUp.RETRY
)


_MORE_TO_COME: dict[str, FollowUp] = {
    reason: reason.follow_up for reason in (Reason.PREEMPTED, Reason.PREPARED, Reason.OUT_OF_GPU_MEMORY)
} | {ActiveReason.SUSPENDED: FollowUp.CONTINUE}


def record(status: Status, observed: Observed, now: datetime) -> FollowUp | None:
    """Write what was observed into the list of attempts.

    Returns:
        What follows the newest attempt; None while it goes on or there is none.
    """
    follow_up: FollowUp | None = None
    seen = {attempt.order: attempt for attempt in observed.attempts}
    listed = {order(entry) for entry in status.attempts}
    oldest = min(listed, default=(0, 0))
    for place in sorted(listed | {found for found in seen if found >= oldest}):
        follow_up = _settle(status, place, seen.get(place), observed, now)
    _count_interruptions(status, observed)
    return follow_up


def order(entry: AttemptStatus) -> tuple[int, int]:
    """Stages come one after the other, and in each its attempts."""
    return STAGES.index(Stage(entry.stage)), entry.number


def add(
    status: Status, stage: Stage, number: int, job_name: str, start: datetime, micro_batch_size: int | None = None
) -> AttemptStatus:
    """Enter a new attempt."""
    entry = AttemptStatus(
        stage=stage.value,
        number=number,
        job_name=job_name,
        start_time=report.rfc3339(start),
    )
    entry.micro_batch_size = micro_batch_size
    status.attempts = sorted([*status.attempts, entry], key=order)[-MAX_ATTEMPTS_LISTED:]
    newest = status.attempts[-1]
    status.attempt, status.job_name = newest.number, newest.job_name
    status.start_time = status.start_time or entry.start_time
    return entry


def end(status: Status, entry: AttemptStatus, how: Ending, when: datetime) -> None:
    """Close an attempt, once."""
    entry.completion_time = report.rfc3339(when)
    entry.reason, entry.exit_code = str(how.reason), how.exit_code
    entry.message, entry.hint = report.clip(how.message, 4096), report.clip(how.hint, 1024) or None
    if how.outcome:
        shown = status.progress.resumed_from if status.progress else None
        accounting.take_session(status, entry, how.outcome.resumed_from, same=shown == how.outcome.resumed_from)
        entry.step = how.outcome.step
        report.show_outcome(status, how.outcome)
    elif entry.resumed_from is not None and status.progress:
        entry.step = status.progress.step
    if how.follow_up in (FollowUp.FAIL, FollowUp.RETRY):
        status.failures += 1
    if how.follow_up is FollowUp.RESUME:
        status.preemptions += 1


def _settle(
    status: Status, place: tuple[int, int], facts: Attempt | None, observed: Observed, now: datetime
) -> FollowUp | None:
    entry = next((entry for entry in status.attempts if order(entry) == place), None)
    if entry and entry.reason and not _overtaken(entry.reason, facts):
        return _follow_up_of(entry.reason)
    if entry is None and facts:
        entry = add(status, facts.stage, facts.number, facts.job_name, facts.created, facts.micro_batch_size)
    if entry is None:
        return None
    if facts and facts.node:
        entry.node_name = facts.node
    how = (facts.ending if facts.over else None) if facts else (None if observed.stray_pods else JOB_DELETED)
    if how is None:
        return None
    end(status, entry, how, (facts.ended if facts else None) or now)
    return how.follow_up


def _overtaken(reason: str, facts: Attempt | None) -> bool:
    """It was to be stopped, but came to an end of its own before."""
    return reason == ActiveReason.SUSPENDED and facts is not None and facts.over


def _follow_up_of(reason: str) -> FollowUp:
    """A job that is not finished although this attempt ended has more to come; the question is only how soon."""
    return _MORE_TO_COME.get(reason, FollowUp.RETRY)


def _count_interruptions(status: Status, observed: Observed) -> None:
    """Interrupted pods are cleaned away by the cluster: one more than there was to be seen is one more preemption."""
    visible = {attempt.order: attempt.interruptions for attempt in observed.attempts}
    for entry in status.attempts:
        now = visible.get(order(entry), 0)
        status.preemptions += max(0, now - entry.interrupted_pods)
        entry.interrupted_pods = now
