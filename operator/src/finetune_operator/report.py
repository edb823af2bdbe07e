"""Pure: the pieces of a status. Reading the old one, conditions, progress, and the Events that follow from a change."""

import copy
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from finetune_api.names import ActiveReason, Condition, Stage
from finetune_api.outcome import Outcome, Reason
from finetune_api.progress import Progress
from finetune_api.status import (
    ArtifactStatus,
    AttemptStatus,
    DatasetStatus,
    EvaluationStatus,
    MemoryStatus,
    ProgressStatus,
    Status,
    StatusCondition,
)

Truth = Literal["True", "False", "Unknown"]
LARGEST = 2**53 - 1
"""The largest number that a status holds."""
_UNREADABLE = 500  # places in one status; more than that is none of ours


@dataclass(frozen=True)
class Verdict:
    """What a pass has to say about the job as a whole."""

    reason: str
    message: str
    succeeded: Truth = "Unknown"
    reconciling: bool = True
    """The operator still has something to do before the job is on its way."""
    stalled: bool = False
    """Nothing more happens without a person."""
    suspended: bool = False


@dataclass(frozen=True)
class Note:
    """One Event to record."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def read_status(raw: dict[str, Any] | None) -> Status:
    """The status as stored, without what this version cannot read: a newer one may have written it.

    What it says of the verdict must not be lost with that, or the job would be done once more.
    """
    known = copy.deepcopy(raw or {})
    for _ in range(_UNREADABLE):
        try:
            return Status.model_validate(known)
        except ValidationError as error:
            found = error.errors()[-1]
            if not _drop(known, found["loc"][:-1] if found["type"] == "missing" else found["loc"]):
                break
    return Status()


def _drop(value: Any, place: tuple[int | str, ...]) -> bool:
    """Remove what lies there; whether there was anything."""
    try:
        for step in place[:-1]:
            value = value[step]
        del value[place[-1]]
    except (LookupError, TypeError):
        return False
    return True


def clip(text: str, limit: int) -> str:
    """Keep a text within its field's bound."""
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def rfc3339(time: datetime) -> str:
    """A time as Kubernetes writes it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def find(status: Status, kind: Condition) -> StatusCondition | None:
    """The condition of that type."""
    return next((condition for condition in status.conditions if condition.type == kind), None)


def finished(status: Status) -> bool:
    """The verdict fell; it never changes again."""
    found = find(status, Condition.SUCCEEDED)
    return found is not None and found.status != "Unknown"


def pronounce(status: Status, verdict: Verdict, generation: int, now: datetime) -> None:
    """Write the verdict into the status: five conditions, each of which keeps its time while its status stays."""
    entries: list[tuple[Condition, Truth]] = [
        (Condition.SUCCEEDED, verdict.succeeded),
        (Condition.PREPARED, "True" if prepared(status) else "False"),
        (Condition.SUSPENDED, "True" if verdict.suspended else "False"),
        (Condition.RECONCILING, "True" if verdict.reconciling else "False"),
        (Condition.STALLED, "True" if verdict.stalled else "False"),
    ]
    status.conditions = [_renew(status, kind, value, verdict, generation, now) for kind, value in entries]
    status.observed_generation = generation
    if verdict.succeeded != "Unknown" and status.completion_time is None:
        status.completion_time = rfc3339(now)


def prepared(status: Status) -> bool:
    """Whether the dataset is ready; an attempt to train says so as well, for the list of attempts is bounded."""
    ready = (Reason.PREPARED, Reason.ALREADY_PUBLISHED)
    return any(entry.stage == Stage.TRAIN or entry.reason in ready for entry in status.attempts)


def _prepared_message(status: Status) -> str:
    data = status.dataset
    return f"{data.rows} rows, {data.tokens} tokens, {data.trained_tokens} of them trained" if data else ""


def _renew(
    status: Status, kind: Condition, value: Truth, verdict: Verdict, generation: int, now: datetime
) -> StatusCondition:
    old = find(status, kind)
    reason, message = verdict.reason, clip(verdict.message, 4096)
    if kind is not Condition.SUCCEEDED and value == "False":  # it has nothing to add but that it is not so
        reason, message = f"Not{kind.value}", ""
    elif kind is Condition.PREPARED:
        reason, message = Reason.PREPARED, _prepared_message(status)
    return StatusCondition(
        type=kind.value,
        status=value,
        reason=reason,
        message=message,
        last_transition_time=old.last_transition_time if old and old.status == value else rfc3339(now),
        observed_generation=generation,
    )


def show_progress(status: Status, progress: Progress) -> None:
    """Put what the trainer says into the status; numbers become strings here and nowhere else."""
    loss = progress.loss if progress.loss is not None and math.isfinite(progress.loss) else None
    old = status.progress or ProgressStatus()
    said = {
        "phase": progress.phase.value,
        "percentage": f"{progress.percent}%" if progress.total_steps else old.percentage,
        "loss": clip(f"{loss:.4f}", 24) if loss is not None else old.loss,
        "resumed_from": progress.resumed_from if progress.resumed_from is None else min(progress.resumed_from, LARGEST),
        "eta": duration(progress.eta_seconds) if progress.eta_seconds is not None else None,
        "estimated_completion_time": _told(progress.updated_at + (progress.eta_seconds or 0))
        if progress.eta_seconds is not None and progress.updated_at > 0
        else None,
        "message": clip(progress.message, 512),
        "updated_time": _told(progress.updated_at) or old.updated_time,
    }
    if progress.total_steps:  # one that is still loading does not know yet where it goes on
        said |= {"step": min(progress.step, LARGEST), "total_steps": min(progress.total_steps, LARGEST)}
    status.progress = old.model_copy(update=said)


def rest_progress(status: Status) -> None:
    """Nothing runs now: what was reached stays, an estimate of the time left would be a lie."""
    if status.progress is not None:
        nothing = {"eta": None, "estimated_completion_time": None, "message": "", "phase": ""}
        status.progress = status.progress.model_copy(update=nothing)


def show_outcome(status: Status, outcome: Outcome) -> None:
    """Put what the termination message proves into the status."""
    if outcome.dataset:
        status.dataset = DatasetStatus(**outcome.dataset.model_dump(exclude_none=True))
    if outcome.artifact:
        status.artifact = ArtifactStatus(**outcome.artifact.model_dump())
    if outcome.loss_before is not None or outcome.loss_after is not None:
        losses = {
            "loss_before": _decimal(outcome.loss_before),
            "loss_after": _decimal(outcome.loss_after),
            "loss_merged": _decimal(outcome.loss_merged),
        }
        metrics = {
            "metrics_before": _decimals(outcome.metrics_before),
            "metrics_after": _decimals(outcome.metrics_after),
        }
        status.evaluation = EvaluationStatus().model_copy(update=losses | metrics)
    told = {
        "estimated_bytes": outcome.estimated_memory_bytes,
        "micro_batch_size": outcome.micro_batch_size,
        "peak_bytes": outcome.peak_memory_bytes,
    }
    known = {name: value for name, value in told.items() if value is not None}
    if known:
        status.memory = (status.memory or MemoryStatus()).model_copy(update=known)
    if status.artifact:
        reached = status.progress or ProgressStatus()
        end = {"percentage": "100%", "step": outcome.step, "total_steps": reached.total_steps or outcome.step}
        status.progress = reached.model_copy(update={**end, "loss": _decimal(outcome.loss) or reached.loss})


def duration(seconds: int) -> str:
    """4m10s, as Kubernetes writes durations: the two largest units that are not zero."""
    units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    parts = []
    for unit, size in units:
        count, seconds = divmod(seconds, size)
        parts.append((count, unit))
    start = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return clip("".join(f"{count}{unit}" for count, unit in parts[start : start + 2] if count) or "0s", 64)


def _decimal(value: float | None) -> str | None:
    return clip(f"{value:.4f}", 24) if value is not None and math.isfinite(value) else None


def _decimals(values: dict[str, float]) -> dict[str, str] | None:
    """Metrics as the status holds them; what is no number is left out."""
    told = {name[:32]: _decimal(value) for name, value in values.items()}
    return {name: text for name, text in told.items() if text is not None} or None


def _told(timestamp: float) -> str | None:
    try:
        return rfc3339(datetime.fromtimestamp(timestamp, UTC)) if timestamp > 0 else None
    except (OverflowError, OSError, ValueError):
        return None


_NORMAL = (*ActiveReason, Reason.PUBLISHED, Reason.ALREADY_PUBLISHED)
_TOLD = (ActiveReason.QUEUED, ActiveReason.TRAINING, ActiveReason.SUSPENDED)
"""Of what a job does, this is told; the rest of it is in the status, and its attempts' starts and ends are Events."""


def notes(old: Status, new: Status) -> tuple[Note, ...]:
    """The Events that tell the way from one status to the next, in order."""
    found = [*_ended(old, new)]
    if new.attempts and new.job_name != old.job_name:
        newest = new.attempts[-1]
        said = f"{newest.stage} attempt {newest.number} is Job {newest.job_name}"
        if newest.stage == Stage.TRAIN and old.attempts and _shrunk(old.attempts[-1], newest):
            said += f", with micro-batches of {newest.micro_batch_size}"
        found.append(Note("Normal", f"{newest.stage.capitalize()}Started", said))
    if new.preemptions > old.preemptions:
        message = "the cluster took the pod away; a new one goes on from the last checkpoint"
        found.append(Note("Warning", "Preempted", message))
    before, after = find(old, Condition.SUCCEEDED), find(new, Condition.SUCCEEDED)
    silent = after is None or (after.reason in (*ActiveReason,) and after.reason not in _TOLD)
    if after and not silent and (not before or before.reason != after.reason):
        found.append(Note("Normal" if after.reason in _NORMAL else "Warning", after.reason, after.message))
    return tuple(found)


def _shrunk(before: AttemptStatus, after: AttemptStatus) -> bool:
    return (after.micro_batch_size or 0) < (before.micro_batch_size or 0)


def _ended(old: Status, new: Status) -> list[Note]:
    """Attempts that ended without ending the job; the last one's end is told by the verdict."""
    known = {attempt.job_name for attempt in old.attempts if attempt.reason}
    fresh = [attempt for attempt in new.attempts if attempt.reason and attempt.job_name not in known]
    if finished(new):
        fresh = fresh[:-1]
    return [_end_note(attempt) for attempt in fresh]


def _end_note(attempt: AttemptStatus) -> Note:
    if attempt.reason == Reason.PREPARED:
        return Note("Normal", Reason.PREPARED, attempt.message or "")
    said = f"{attempt.stage} attempt {attempt.number} ended: {attempt.message}"
    return Note("Normal" if attempt.reason in _NORMAL else "Warning", attempt.reason or "", said)
