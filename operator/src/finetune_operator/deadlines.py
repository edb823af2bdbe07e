"""Pure: the clocks that end an attempt. What each counts, and whether it is final, is in docs/status.md.

All of them are read off the API's objects and the status: a new operator process goes on where the last one was. The
one exception is a trainer's silence, which a new process counts anew, and so later.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.names import ActiveReason, ClusterReason, Stage
from finetune_api.outcome import FollowUp
from finetune_api.progress import Progress
from finetune_api.status import AttemptStatus, Status
from finetune_api.v1alpha1 import Spec
from finetune_operator import accounting
from finetune_operator.evidence import Ending
from finetune_operator.observe import Attempt, Observed, State, parse_time

RELEASE_SECONDS = 15
"""A pod whose trainer has ended may hold its node so long: until the kubelet and the Job have seen it."""


@dataclass(frozen=True)
class Clock:
    """One deadline of an attempt."""

    left: float
    """Seconds; none are left when it is over."""
    ending: Ending
    """How the attempt ends then."""
    runs: bool = True
    """Whether time alone brings it nearer."""


@dataclass(frozen=True)
class Heard:
    """What the operator has heard of the trainer that runs now."""

    progress: Progress | None = None
    """Its last answer."""
    silent_seconds: float | None = None
    """How long ago that was; None where it has never answered."""
    in_vain_seconds: float | None = None
    """For how long it was asked and has never answered, where there is a way to it."""


def spoke_before(resource: dict[str, Any], attempt: Attempt) -> bool:
    """Whether the status has something that its trainer said since it runs."""
    progress = (resource.get("status") or {}).get("progress") or {}
    told = parse_time(progress.get("updatedTime")) if isinstance(progress, dict) else None
    return told is not None and attempt.running_since is not None and told >= attempt.running_since


def clocks(
    spec: Spec, status: Status, entry: AttemptStatus, facts: Attempt, observed: Observed, heard: Heard, now: datetime
) -> list[Clock]:
    """All deadlines of an attempt that is neither suspended nor queued; of several that are over the first counts."""
    found = (
        _release(facts, now),
        _active(spec, status, facts, observed, now),
        _pending(spec, entry, facts, now),
        _stall(spec, facts, heard, now),
        _start(spec, facts, heard, now),
    )
    return [clock for clock in found if clock]


def expired(found: list[Clock]) -> Ending | None:
    """How the attempt ends now, if it does."""
    return next((clock.ending for clock in found if clock.left <= 0), None)


def next_look(found: list[Clock]) -> float | None:
    """Seconds until the next deadline can be over."""
    return min((clock.left for clock in found if clock.runs), default=None)


def _left(limit: float, since: datetime, now: datetime) -> float:
    return limit - (now - since).total_seconds()


def _release(facts: Attempt, now: datetime) -> Clock | None:
    """Another container of the pod can keep it, and its GPUs, for ever: a sidecar that knows no end."""
    if facts.exited is None or facts.told is None or not facts.live_pods or facts.state is State.ENDED:
        return None
    return Clock(_left(RELEASE_SECONDS, facts.exited, now), facts.told)


def _active(spec: Spec, status: Status, facts: Attempt, observed: Observed, now: datetime) -> Clock | None:
    limit = spec.deadlines.active_seconds
    if limit is None or facts.stage is not Stage.TRAIN:
        return None
    spent = accounting.training_seconds(status, observed, now)
    message = f"it has trained for {spent} s, and spec.deadlines.activeSeconds is {limit}"
    hint = "raise spec.deadlines.activeSeconds in a new FineTuneJob; checkpoints of this one stay in storage"
    ending = Ending(ClusterReason.DEADLINE_EXCEEDED, message, FollowUp.FAIL, hint)
    return Clock(limit - spent, ending, runs=facts.state is State.RUNNING)


def _pending(spec: Spec, entry: AttemptStatus, facts: Attempt, now: datetime) -> Clock | None:
    """Final, for the next attempt would wait no better.

    One that has run and has no pod is between two, not late, unless something says why there is none.
    """
    between = entry.node_name is not None and not facts.live_pods and facts.trouble is None
    if facts.pending_since is None or between:
        return None
    limit = spec.deadlines.pending_seconds
    cause = f"{facts.trouble.reason}: {facts.trouble.message}" if facts.trouble else "nothing says why"
    message = f"no container ran within spec.deadlines.pendingSeconds ({limit}); {cause}"
    ending = Ending(ClusterReason.PENDING_DEADLINE_EXCEEDED, message, FollowUp.FAIL)
    return Clock(_left(limit, facts.pending_since, now), ending)


def _stall(spec: Spec, facts: Attempt, heard: Heard, now: datetime) -> Clock | None:
    """A trainer that answers is alive, whatever is said of its node; one that never did may be out of our reach."""
    limit, node = spec.deadlines.stall_seconds, facts.silent_since
    if heard.silent_seconds is not None:
        silent = heard.silent_seconds
    elif node is not None:
        silent = (now - node).total_seconds()
    else:
        return None
    over = f"for longer than spec.deadlines.stallSeconds ({limit})"
    if node is None:
        message = (
            f"the trainer on node {facts.node} has answered, and has been silent {over}; its pod counts as running"
        )
        return Clock(limit - silent, Ending(ClusterReason.TRAINER_SILENT, message, FollowUp.RETRY))
    hint = f"if node {facts.silent_node} is off for good, delete the Node: its pods count as running until then"
    message = f"node {facts.silent_node} has not been heard of {over}"
    return Clock(limit - silent, Ending(ClusterReason.NODE_LOST, message, FollowUp.RETRY, hint))


def _start(spec: Spec, facts: Attempt, heard: Heard, now: datetime) -> Clock | None:
    """A trainer that cannot be asked may be at any step; at a debugger's breakpoint none are taken."""
    said, since, limit = heard.progress, facts.running_since, spec.deadlines.start_seconds
    if facts.stage is not Stage.TRAIN or since is None or spec.debug.debugpy or (said and _has_stepped(said)):
        return None
    late = f"no step within spec.deadlines.startSeconds ({limit}) of its container's start"
    left = _left(limit, since, now)
    if said:
        message = f"{late}; it is {said.phase}" + (f": {said.message}" if said.message else "")
    elif heard.in_vain_seconds is not None:
        left = max(left, limit - heard.in_vain_seconds)  # an operator that has just begun to ask waits as long
        message = f"{late}; it has never answered, as other trainers do: is its entrypoint the trainer's?"
    else:
        return None
    return Clock(left, Ending(ClusterReason.START_DEADLINE_EXCEEDED, message, FollowUp.RETRY))


def _has_stepped(said: Progress) -> bool:
    """Or has none to take: a run that was cut off before it was published has trained to its end already."""
    done = said.total_steps > 0 and said.step >= said.total_steps
    return said.step > (said.resumed_from or 0) or done or said.phase is ActiveReason.PUBLISHING
