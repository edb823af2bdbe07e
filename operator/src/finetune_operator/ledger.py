"""Pure: keeps `status.attempts` and the counters. What is recorded as ended stays as it was recorded."""

from datetime import datetime

from finetune_api.names import ClusterReason, Stage
from finetune_api.outcome import FollowUp, Reason
from finetune_api.status import MAX_ATTEMPTS_LISTED, AttemptStatus, Status
from finetune_operator import report
from finetune_operator.evidence import Ending
from finetune_operator.observe import Attempt, Observed

JOB_DELETED = Ending(
    ClusterReason.JOB_DELETED, "its Job was deleted before it ended; the attempt counts as failed", FollowUp.RETRY
)


def record(status: Status, observed: Observed, now: datetime) -> FollowUp | None:
    """Write what was observed into the list of attempts.

    Returns:
        What follows the newest attempt; None while it goes on or there is none.
    """
    follow_up: FollowUp | None = None
    seen = {attempt.number: attempt for attempt in observed.attempts}
    oldest = status.attempts[0].number if status.attempts else 0
    for number in sorted({entry.number for entry in status.attempts} | {n for n in seen if n >= oldest}):
        follow_up = _settle(status, number, seen.get(number), observed, now)
    _count_interruptions(status, observed)
    return follow_up


def add(status: Status, number: int, job_name: str, start: datetime) -> AttemptStatus:
    """Enter a new attempt."""
    entry = AttemptStatus(number=number, stage=Stage.TRAIN.value, job_name=job_name, start_time=report.rfc3339(start))
    listed = sorted([*status.attempts, entry], key=lambda attempt: attempt.number)
    status.attempts = listed[-MAX_ATTEMPTS_LISTED:]
    if number >= (status.attempt or 0):
        status.attempt, status.job_name = number, job_name
    status.start_time = status.start_time or entry.start_time
    return entry


def end(status: Status, entry: AttemptStatus, how: Ending, when: datetime) -> None:
    """Close an attempt, once."""
    entry.completion_time = report.rfc3339(when)
    entry.reason, entry.exit_code = str(how.reason), how.exit_code
    entry.message, entry.hint = report.clip(how.message, 4096), report.clip(how.hint, 1024) or None
    if how.outcome:
        entry.step = how.outcome.step
        report.show_outcome(status, how.outcome)
    if how.follow_up in (FollowUp.FAIL, FollowUp.RETRY):
        status.failures += 1
    if how.follow_up is FollowUp.RESUME:
        status.preemptions += 1


def _settle(status: Status, number: int, facts: Attempt | None, observed: Observed, now: datetime) -> FollowUp | None:
    entry = next((entry for entry in status.attempts if entry.number == number), None)
    if entry and entry.reason:
        return _follow_up_of(entry.reason)
    if entry is None and facts:
        entry = add(status, number, facts.job_name, facts.created)
    if entry is None:
        return None
    if facts and facts.node:
        entry.node_name = facts.node
    how = (facts.ending if facts.over else None) if facts else (None if observed.stray_pods else JOB_DELETED)
    if how is None:
        return None
    end(status, entry, how, (facts.ended if facts else None) or now)
    return how.follow_up


def _follow_up_of(reason: str) -> FollowUp:
    """A job that is not finished although this attempt ended has more to come; the question is only how soon."""
    return FollowUp.RESUME if reason == Reason.PREEMPTED else FollowUp.RETRY


def _count_interruptions(status: Status, observed: Observed) -> None:
    """Pods of interrupted runs may be cleaned away by the cluster, so what was counted once stays counted."""
    visible = sum(attempt.interruptions for attempt in observed.attempts)
    status.preemptions = max(status.preemptions, visible)
