"""What a task measures reaches the status as decimal strings, next to the losses."""

import math

import pytest
from pydantic import ValidationError

from finetune_api.outcome import Outcome, Reason
from finetune_api.status import EvaluationStatus, Status
from finetune_operator.report import show_outcome


def shown(**facts: object) -> dict[str, object]:
    """The evaluation of a job whose trainer said so."""
    status = Status()
    show_outcome(status, Outcome.model_validate({"reason": Reason.PUBLISHED, "message": "", **facts}))
    evaluation: dict[str, object] = status.to_dict()["evaluation"]
    return evaluation


def test_metrics_are_decimal_strings() -> None:
    """By their names; before and after; a number that is none is left out."""
    said = shown(
        loss_before=1.5,
        loss_after=0.25,
        metrics_before={"accuracy": 1 / 3, "macroF1": math.nan},
        metrics_after={"accuracy": 1.0, "macroF1": 0.98765},
    )
    assert said == {
        "lossBefore": "1.5000",
        "lossAfter": "0.2500",
        "metricsBefore": {"accuracy": "0.3333"},
        "metricsAfter": {"accuracy": "1.0000", "macroF1": "0.9877"},
    }


def test_a_task_without_metrics_has_none_in_its_status() -> None:
    """A chat has losses only."""
    assert shown(loss_before=1.5, loss_after=0.25) == {"lossBefore": "1.5000", "lossAfter": "0.2500"}


def test_the_status_is_bounded() -> None:
    """Nine metrics are one too many: for the status, and for what the operator believes of a trainer."""
    with pytest.raises(ValidationError):
        EvaluationStatus(metrics_after={str(number): "1" for number in range(9)})
    with pytest.raises(ValidationError):
        Outcome(reason=Reason.PUBLISHED, message="", metrics_after={str(number): 1.0 for number in range(9)})
