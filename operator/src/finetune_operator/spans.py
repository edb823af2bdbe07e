"""Pure: when a pod held its node and its trainer ran, and since when its node says nothing of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator import evidence, gang
from finetune_operator.evidence import Resource


@dataclass(frozen=True)
class Span:
    """The times of one pod, by its node's clock."""

    held: datetime
    """Since then a node has it, and its GPUs are taken."""
    ran: datetime | None = None
    """The trainer's container started."""
    exited: datetime | None = None
    """The trainer's container ended."""
    end: datetime | None = None
    """Nothing is held any more; None while something is."""


def parse_time(text: str | None) -> datetime | None:
    """An RFC 3339 time as Kubernetes writes it."""
    return datetime.fromisoformat(text) if text else None


def of_pod(pod: Resource) -> Span | None:
    """None where no node has taken it yet, or where nothing says when it ended."""
    state = evidence.trainer_state(pod)
    told: dict[str, Any] = state.get("running") or state.get("terminated") or {}
    ran, exited = parse_time(told.get("startedAt")), parse_time(told.get("finishedAt"))
    held = parse_time(pod.get("status", {}).get("startTime")) or ran
    if held is None:
        return None
    if gang.live(pod):
        return Span(held, ran, exited)
    disrupted = evidence.condition(pod, "DisruptionTarget") or {}
    end = exited or parse_time(disrupted.get("lastTransitionTime"))
    return Span(held, ran, end, end) if end else None


def silent_since(pod: Resource) -> datetime | None:
    """Since when the node of a running pod is not heard of: the node controller says so, or its deletion is overdue.

    The node controller takes Ready back and leaves ContainersReady, the kubelet's last word; the kubelet changes both.
    The time may lie ahead: until then a deleted pod has its grace period.
    """
    if not gang.live(pod) or "running" not in evidence.trainer_state(pod):
        return None
    conditions = {found.get("type"): found for found in pod.get("status", {}).get("conditions") or []}
    ready, containers = conditions.get("Ready") or {}, conditions.get("ContainersReady") or {}
    if ready.get("status") == "False" and containers.get("status") == "True" and not ready.get("reason"):
        return parse_time(ready.get("lastTransitionTime"))
    return parse_time(pod["metadata"].get("deletionTimestamp"))
