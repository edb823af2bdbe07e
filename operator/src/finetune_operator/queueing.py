"""Pure: Jobs that wait in a queue of Kueue. What carries its label is Kueue's to suspend, to resume and to place.

Kueue suspends such a Job when it is created, admits it by setting `suspend` to false and merging node selector,
tolerations and labels into its template, and takes that back when it needs the quota. A Job that is suspended against
Kueue's will is resumed at once, so one that shall not run is deleted: that takes no right in Kueue's own API.
"""

from datetime import datetime

from finetune_api.names import ActiveReason
from finetune_api.outcome import FollowUp
from finetune_api.status import AttemptStatus, Status
from finetune_api.v1alpha1 import Spec
from finetune_operator import ledger
from finetune_operator.evidence import Ending
from finetune_operator.observe import Attempt, Observed, State
from finetune_operator.report import Verdict


def event(facts: Attempt) -> str:
    """The reason of the Events that tell why the attempt has no pod: Kueue's where it waits for it."""
    return "Stopped" if facts.queue and facts.suspended else "FailedCreate"


def must_leave(spec: Spec, facts: Attempt) -> bool:
    """Whether the Job has to go although its attempt is not over: nothing shall run, or it waits in another queue.

    The Job's own label decides whose it is: Kueue can be told to put every Job of a namespace into a queue.
    """
    if facts.state is State.ENDED:
        return False
    moved = spec.queue_name is not None and spec.queue_name != facts.queue
    return (spec.suspend and facts.queue is not None) or (moved and (spec.suspend or facts.suspended))


def withdraw(status: Status, entry: AttemptStatus, facts: Attempt, now: datetime) -> None:
    """Write down that the attempt ends, and counts for nothing.

    The next pass deletes its Job (see `leftovers`): a crash in between must not make it one that somebody else deleted.
    """
    message = f"Job {facts.job_name} was taken out of {_queue(facts)}; the next one goes on from the last checkpoint"
    how = Ending(ActiveReason.SUSPENDED, message, FollowUp.CONTINUE)
    ledger.end(status, entry, how, now)


def leftovers(status: Status, observed: Observed) -> tuple[str, ...]:
    """Jobs whose attempts the stored status calls ended, and which may still be admitted."""
    ended = {ledger.order(entry) for entry in status.attempts if entry.reason}
    return tuple(
        attempt.job_name
        for attempt in observed.attempts
        if attempt.order in ended and attempt.state is not State.ENDED and not attempt.deleted
    )


def waiting(entry: AttemptStatus, facts: Attempt) -> Verdict:
    """The Job is Kueue's at this moment."""
    said = f": {facts.stopped_because}" if facts.stopped_because else ""
    if facts.live_pods:
        message = f"Job {facts.job_name} is stopping, its quota was taken back{said}; its trainer saves a checkpoint"
    elif entry.node_name or said:
        message = f"Job {facts.job_name} waits in {_queue(facts)} to go on{said}"
    else:
        hint = f"kubectl get workloads -l kueue.x-k8s.io/job-uid={facts.uid} tells why"
        message = f"Job {facts.job_name} waits in {_queue(facts)} for quota; {hint}"
    return Verdict(ActiveReason.QUEUED, message)


def _queue(facts: Attempt) -> str:
    return f"queue {facts.queue}" if facts.queue else "no queue"
