"""FineTuneJobs whose pods are simulated: what kwok lets them say, and how a test follows them."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from finetune_api import names
from finetune_api.names import Stage
from finetune_api.outcome import Artifact, DatasetReport, Outcome, Reason
from localcluster.simulation import ControlPlane, pod_stage

NAMESPACE = "research"
PREPARED = Outcome(
    reason=Reason.PREPARED,
    message="32 rows are prepared",
    dataset=DatasetReport(sha256="0" * 64, rows=32, evaluation_rows=8, tokens=3200, trained_tokens=1600),
)
PUBLISHED = Outcome(
    reason=Reason.PUBLISHED,
    message="the adapter is published",
    step=4,
    loss_before=4.0,
    loss_after=1.0,
    artifact=Artifact(uri="s3://adapters/simulated", manifest_sha256="1" * 64, bytes=1000, files=5),
)


FAILED = Outcome(reason=Reason.INTERNAL_ERROR, message="it failed", step=2)
FAILS = "simulated/fails:1"
"""The image of a trainer that fails twice, and is right the third time."""


def _of(*images: str, operator: str = "In") -> dict[str, Any]:
    return {"key": ".spec.containers[0].image", "operator": operator, "values": [*images]}


def failures(seconds: float) -> list[dict[str, Any]]:
    """The ends of the trainer that fails at first."""
    train = {names.LABEL_STAGE: Stage.TRAIN.value, names.LABEL_MANAGED_BY: names.MANAGED_BY}
    return [
        pod_stage(
            f"train-{number}-fails",
            {**train, names.LABEL_ATTEMPT: number},
            names.TRAINER_CONTAINER,
            "Running",
            ended(outcome),
            seconds,
            _of(FAILS),
        )
        for number, outcome in (("1", FAILED), ("2", FAILED), ("3", PUBLISHED))
    ]


def lives(prepare_seconds: float = 0.2, train_seconds: float = 0.5) -> list[dict[str, Any]]:
    """What kwok does with the pods of both stages: they run, and succeed with what a trainer says then."""
    stages = []
    for stage, outcome, seconds in (
        (Stage.PREPARE, PREPARED, prepare_seconds),
        (Stage.TRAIN, PUBLISHED, train_seconds),
    ):
        labels = {names.LABEL_STAGE: stage.value, names.LABEL_MANAGED_BY: names.MANAGED_BY}
        right = [_of(FAILS, operator="NotIn")] if stage is Stage.TRAIN else []
        stages += [
            pod_stage(f"{stage.value}-runs", labels, names.TRAINER_CONTAINER, "Pending", RUNNING),
            pod_stage(
                f"{stage.value}-ends", labels, names.TRAINER_CONTAINER, "Running", ended(outcome), seconds, *right
            ),
        ]
    return [*stages, *failures(train_seconds)]


RUNNING = "{running: {startedAt: {{ Now | Quote }}}}"


def ended(outcome: Outcome) -> str:
    """The state of a container that ended with that outcome."""
    said = json.dumps(outcome.to_termination_message())
    return (
        f"{{terminated: {{exitCode: {int(outcome.reason.exit_code)}, reason: Completed, message: {said}, "
        "startedAt: {{ Now | Quote }}, finishedAt: {{ Now | Quote }}}}"
    )


def job(name: str, **spec: Any) -> dict[str, Any]:
    """A FineTuneJob that asks for one GPU; its sources are never read here."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "model": {"uri": "s3://models/tiny"},
            "dataset": {"train": {"uri": "s3://datasets/train.jsonl"}},
            "resources": {"gpus": 1},
            "storage": {"secretName": "s3-credentials"},
            "output": {"uri": f"s3://adapters/{name}"},
            **spec,
        },
    }


def get(plane: ControlPlane, kind: str, name: str = "", namespace: str = NAMESPACE) -> dict[str, Any]:
    """An object, or the list of all."""
    found: dict[str, Any] = json.loads(plane.kubectl("-n", namespace, "get", kind, *([name] if name else []), "-ojson"))
    return found


def verdict(plane: ControlPlane, name: str) -> tuple[str, str]:
    """Status and reason of the job's Succeeded condition."""
    for condition in get(plane, names.PLURAL, name).get("status", {}).get("conditions", []):
        if condition["type"] == "Succeeded":
            return condition["status"], condition["reason"]
    return "", ""


def wait_for(what: str, condition: Callable[[], Any], *, timeout: float = 120) -> Any:
    """Poll until a condition is true, and return its value."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"Waited {timeout:.0f} s in vain for {what}.")
        time.sleep(0.1)
    return value
