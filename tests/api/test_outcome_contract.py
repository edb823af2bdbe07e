"""The outcome of a run: codes, follow-ups and the size limit of the termination message."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.outcome import Artifact, DatasetReport, ExitCode, FollowUp, Outcome, Reason

DESIGN = {
    0: ("Published", "Succeed"),
    64: ("InvalidConfiguration", "Fail"),
    65: ("InvalidDataset", "Fail"),
    66: ("ModelNotFound", "Fail"),
    69: ("StorageUnavailable", "Retry"),
    70: ("InternalError", "Retry"),
    73: ("StorageDenied", "Fail"),
    75: ("Preempted", "Resume"),
    81: ("NonFiniteLoss", "Fail"),
    82: ("Hang", "Retry"),
    83: ("VerificationFailed", "Retry"),
    85: ("QualityGateFailed", "Fail"),
    137: ("OutOfMemory", "Fail"),
}


@pytest.mark.parametrize(("code", "expected"), DESIGN.items())
def test_codes_follow_the_design(code: int, expected: tuple[str, str]) -> None:
    """Each code of the design's table stands for its reason and its follow-up."""
    reason = Reason(expected[0])

    assert (reason.exit_code, reason.follow_up) == (ExitCode(code), FollowUp(expected[1]))


@given(st.sampled_from(Reason), st.text(max_size=6000), st.text(max_size=6000))
def test_any_message_fits(reason: Reason, message: str, hint: str) -> None:
    """Whatever the text, at most 4096 bytes are written, valid JSON, and the reason and the facts survive."""
    artifact = Artifact(uri="s3://" + "a" * 500, manifest_sha256="0" * 64, bytes=1, files=2)
    numbers = {name: 2**53 for name, field in DatasetReport.model_fields.items() if field.annotation is int}
    report = DatasetReport(sha256="0" * 64, format="PromptCompletion", model_revision="0" * 64, **numbers)
    metrics = {f"{'m' * 31}{number}": 1 / 3 for number in range(8)}
    outcome = Outcome(
        reason=reason, message=message, hint=hint, artifact=artifact, dataset=report, loss_before=1.5,
        metrics_before=metrics, metrics_after=metrics,
    )  # fmt: skip

    text = outcome.to_termination_message()

    assert len(text.encode()) <= 4096
    json.loads(text)
    back = Outcome.from_termination_message(text)
    assert (back.reason, back.artifact, back.dataset, back.loss_before) == (reason, artifact, report, 1.5)
    assert back.metrics_before == back.metrics_after == metrics
    assert message.startswith(back.message.removesuffix(" ..."))


def test_what_a_newer_trainer_says_is_read() -> None:
    """A rolled back operator takes the verdict of a trainer that says more than it knows; it makes no such one."""
    artifact = Artifact(uri="s3://a/b", manifest_sha256="0" * 64, bytes=1, files=2)
    outcome = Outcome(reason=Reason.PUBLISHED, message="done", artifact=artifact)
    said = json.loads(outcome.to_termination_message())
    said |= {"novelty": {"a": 1}, "artifact": {**said["artifact"], "novelty": 2}}
    assert Outcome.from_termination_message(json.dumps(said)) == outcome
    with pytest.raises(ValidationError, match="novelty"):
        Outcome.model_validate(said)
