"""The page about the status is complete, and its numbers are those of the code."""

import re
from pathlib import Path

from finetune_api.names import ActiveReason, ClusterReason, Condition
from finetune_api.status import AttemptStatus
from finetune_api.v1alpha1 import Deadlines
from finetune_operator.deadlines import RELEASE_SECONDS
from finetune_operator.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "status.md").read_text()
WORDS = set(re.findall(r"\w+", PAGE))


def test_everything_has_its_place() -> None:
    """Every condition, every reason of the operator's, every field of an attempt, every deadline."""
    fields = {info.alias for model in (AttemptStatus, Deadlines) for info in model.model_fields.values()}
    assert {*Condition, *ActiveReason, *ClusterReason, *fields} - WORDS == set()


def test_the_numbers_are_right() -> None:
    """Defaults of the deadlines, and what else counts seconds."""
    defaults = Deadlines()
    told = {name: int(number) for name, number in re.findall(r"^ {4}(\w+Seconds): (\d+) ", PAGE, re.MULTILINE)}
    assert told == {
        "pendingSeconds": defaults.pending_seconds,
        "startSeconds": defaults.start_seconds,
        "stallSeconds": defaults.stall_seconds,
    }
    assert defaults.active_seconds is None
    assert f"| {RELEASE_SECONDS} s |" in PAGE
    settings = Settings(trainer_image="x")
    assert f"grace period of {settings.termination_grace_seconds} s" in PAGE
    assert f"every {settings.refused_seconds:.0f} s" in PAGE
