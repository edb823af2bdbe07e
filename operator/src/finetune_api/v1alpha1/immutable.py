"""What of the spec never changes after creation, and what only while nothing runs: the operator re-applies no Job.

Each law is written once and judged twice, as a Rule is: by the API server as a transition rule of CEL, and in Python.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune_api.v1alpha1.job import Spec

_NEW = "is immutable; create a new FineTuneJob with another name instead"
_REST = "changes only while suspend is true; set that first and wait for the condition Suspended"
_PARTS = (
    "model",
    "dataset",
    "task",
    "method",
    "training",
    "evaluation",
    "extensions",
    "debug",
    "resources",
    "storage",
    "output",
    "rerun",
)
_TEXTS = ("image", "serviceAccountName")
_AT_REST = ("queueName", "workloadPriorityClassName")


@dataclass(frozen=True)
class Transition:
    """One field of the spec and when it may change."""

    field: str
    """camelCase."""
    cel: str
    """A rule of the field itself, or of the spec where `of_spec` says so: a field that may be missing has none."""
    of_spec: bool
    allows: Callable[[Spec, Spec], bool]
    """Called with the old spec and the new."""
    message: str


def _value(spec: Spec, field: str) -> object:
    return getattr(spec, next(name for name, info in Spec.model_fields.items() if info.alias == field))


def _same(field: str) -> Callable[[Spec, Spec], bool]:
    return lambda old, new: _value(old, field) == _value(new, field)


def _same_or_at_rest(field: str) -> Callable[[Spec, Spec], bool]:
    return lambda old, new: old.suspend or _value(old, field) == _value(new, field)


def _unchanged(field: str) -> str:
    """A text that is missing counts as empty, which none that is there can be."""
    return f"(has(self.{field}) ? self.{field} : '') == (has(oldSelf.{field}) ? oldSelf.{field} : '')"


TRANSITIONS = (
    *(Transition(field, "self == oldSelf", False, _same(field), f"{field} {_NEW}") for field in _PARTS),
    *(Transition(field, _unchanged(field), True, _same(field), f"{field} {_NEW}") for field in _TEXTS),
    *(
        Transition(field, f"oldSelf.suspend || {_unchanged(field)}", True, _same_or_at_rest(field), f"{field} {_REST}")
        for field in _AT_REST
    ),
)
"""What is not named here may change at any time: suspend, retries, deadlines, ttlSecondsAfterFinished."""


def refused_changes(old: Spec, new: Spec) -> Iterator[tuple[str, str]]:
    """Yield (JSON path, sentence) for each change that the API server would refuse."""
    for transition in TRANSITIONS:
        if not transition.allows(old, new):
            yield f"spec.{transition.field}", transition.message
