"""Pure: the books of each attempt. How long it waited, ran and held GPUs, and how many steps it had to do again.

They are carried on when the attempt changes its state, from `countedUntil` to now: each second is in one window only,
so none is counted twice, and no sum goes back, whoever reads which clock. All times are whole seconds. What a pod says
of its own start and end is exact; one that is gone without a word counts until something says that it had ended.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from finetune_api.names import Stage
from finetune_api.status import AttemptStatus, ProgressStatus, Status
from finetune_operator import report
from finetune_operator.observe import Attempt, Observed, State, parse_time
from finetune_operator.spans import Span

Window = tuple[datetime, datetime]


class Account(StrEnum):
    """What an attempt's time goes to."""

    QUEUED = "Queued"
    """It waits, and holds nothing: for quota, a node, a pod."""
    STARTING = "Starting"
    """A pod of it holds a node; not all of its containers run yet."""
    RUNNING = "Running"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    ENDED = "Ended"
    """Nothing is held any more; the books are closed."""


@dataclass(frozen=True)
class Sums:
    """Seconds of one window."""

    queued: int = 0
    running: int = 0
    """In which a trainer ran."""
    held: int = 0
    """Times the pods that held a node."""


def keep(status: Status, observed: Observed, gpus: int, now: datetime) -> None:
    """Carry the books on, of every attempt whose state is another than the status says.

    Args:
        status: Its attempts and its sums are changed.
        observed: The attempts as they are.
        gpus: Of each pod that trains.
        now: The time.
    """
    seen = {(attempt.stage.value, attempt.number): attempt for attempt in observed.attempts}
    for entry in status.attempts:
        facts = seen.get((entry.stage, entry.number))
        state = _account(entry, facts)
        if state is not None and state != entry.account:
            _carry_on(status, entry, facts, state, gpus, now.replace(microsecond=0))


def training_seconds(status: Status, observed: Observed, now: datetime) -> int:
    """Time that trainers have trained, over all attempts: what is written down, and what has passed since."""
    seen = {attempt.number: attempt for attempt in observed.attempts if attempt.stage is Stage.TRAIN}
    open_entries = (e for e in status.attempts if e.stage == Stage.TRAIN and e.account not in (None, Account.ENDED))
    now = now.replace(microsecond=0)
    return status.training_seconds + sum(_since(entry, seen.get(entry.number), now).running for entry in open_entries)


def take_session(status: Status, entry: AttemptStatus, resumed_from: int | None, same: bool) -> None:
    """Note where a trainer began, once, and the steps beyond it that are done again.

    Args:
        status: `progress.step` is the last step that was ever heard of.
        entry: The attempt that the trainer is of.
        resumed_from: What it says; None before it knows.
        same: Whether the status speaks of this very trainer already.
    """
    shown = status.progress or ProgressStatus()
    if resumed_from is None or (same and entry.resumed_from is not None and shown.resumed_from is not None):
        return
    lost, resumed_from = max(0, shown.step - resumed_from), min(resumed_from, report.LARGEST)
    entry.resumed_from = resumed_from if entry.resumed_from is None else entry.resumed_from
    entry.steps_lost += lost
    status.steps_lost += lost


def _account(entry: AttemptStatus, facts: Attempt | None) -> Account | None:
    """None: there is nothing to say, for its Job is gone and its pods are still ending, or the books are closed."""
    if entry.account == Account.ENDED or (facts is None and (entry.reason is None or entry.account is None)):
        return None
    if facts is None or facts.over:
        return Account.ENDED
    if _held(facts):
        return {State.RUNNING: Account.RUNNING, State.STARTING: Account.STARTING, State.PENDING: Account.STARTING}.get(
            facts.state, Account.STOPPING
        )
    if entry.reason:
        return Account.ENDED
    return Account.SUSPENDED if facts.suspended and not facts.queue else Account.QUEUED


def _held(facts: Attempt) -> int:
    return sum(span.end is None for span in facts.spans)


def _carry_on(
    status: Status, entry: AttemptStatus, facts: Attempt | None, state: Account, gpus: int, now: datetime
) -> None:
    sums = _since(entry, facts, now)
    gpu_seconds = sums.held * gpus if entry.stage == Stage.TRAIN else 0
    entry.queued_seconds += sums.queued
    entry.running_seconds += sums.running
    entry.gpu_seconds += gpu_seconds
    status.queued_seconds += sums.queued
    status.gpu_seconds += gpu_seconds
    if entry.stage == Stage.TRAIN:
        status.training_seconds += sums.running
    else:
        status.preparing_seconds += sums.running
    entry.counted_until = report.rfc3339(max(now, _counted_until(entry) or now))
    entry.account, entry.pods = state.value, _held(facts) if facts else 0


def _counted_until(entry: AttemptStatus) -> datetime | None:
    return parse_time(entry.counted_until or entry.start_time)


def _since(entry: AttemptStatus, facts: Attempt | None, now: datetime) -> Sums:
    since = _counted_until(entry)
    if since is None or now <= since:
        return Sums()
    spans = facts.spans if facts else ()
    return sums(entry.account or Account.QUEUED, entry.pods, spans, (since, now), facts.stopped if facts else None)


def sums(account: str, pods: int, spans: Iterable[Span], window: Window, stopped: datetime | None) -> Sums:
    """What one window adds.

    Args:
        account: The state at its begin.
        pods: How many held a node then.
        spans: Of all pods that can still be seen.
        window: From and to.
        stopped: By then the pods that are gone had ended, if anything says so.
    """
    since, now = window
    spans = [span for span in spans if span.end is None or span.end >= since]
    begins = [max(span.held, since) for span in spans if span.end is None or span.held >= since]
    gone = max(0, pods - sum(span.held <= since for span in spans))
    # A pod replaces one that has ended, never one that still runs (podReplacementPolicy).
    last = min([now, *([stopped] if stopped else []), *(span.held for span in spans if span.held > since)])
    ran = [(span.ran, span.exited or now) for span in spans if span.ran]
    if gone and account == Account.RUNNING:
        ran.append((since, last))
    held = sum(_overlap((span.held, span.end or now), window) for span in spans)
    return Sums(
        queued=_overlap((since, min([*begins, now])), window) if account == Account.QUEUED else 0,
        running=_covered(ran, window),
        held=held + gone * _overlap((since, last), window),
    )


def _overlap(one: Window, other: Window) -> int:
    seconds = (min(one[1], other[1]) - max(one[0], other[0])).total_seconds()
    return max(0, int(seconds))


def _covered(windows: list[Window], within: Window) -> int:
    """Seconds in which at least one is open."""
    total, reached = 0, within[0]
    for begin, end in sorted(windows):
        begin, end = max(begin, reached), min(end, within[1])  # noqa: PLW2901
        total += _overlap((begin, end), within)
        reached = max(reached, end)
    return total
