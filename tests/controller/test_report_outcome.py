"""What a trainer proves of its end reaches the status: losses and metrics as decimal strings, the last step's loss."""

import math

import pytest
from pydantic import ValidationError

from finetune_api.outcome import Artifact, Outcome, Reason
from finetune_api.status import EvaluationStatus, ProgressStatus, Status
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


ADAPTER = Artifact(uri="s3://adapters/a", manifest_sha256="0" * 64, bytes=1, files=1)


@pytest.mark.parametrize(
    ("heard", "said", "shown_at_the_end"),
    [(None, 0.25, "0.2500"), ("0.9000", 0.25, "0.2500"), ("0.9000", None, "0.9000"), (None, None, None)],
    ids=["nobody listened", "the last word counts", "an earlier trainer image", "nothing was trained"],
)
def test_the_loss_of_the_last_step_is_shown(
    heard: str | None, said: float | None, shown_at_the_end: str | None
) -> None:
    """It needs nobody who listened while the job trained: the trainer says it again at its end."""
    status = Status(progress=ProgressStatus(step=50, total_steps=60).model_copy(update={"loss": heard}))
    show_outcome(status, Outcome(reason=Reason.PUBLISHED, message="", step=60, artifact=ADAPTER, loss=said))
    assert status.progress is not None
    assert status.progress.loss == shown_at_the_end
    assert (status.progress.percentage, status.progress.step, status.progress.total_steps) == ("100%", 60, 60)
