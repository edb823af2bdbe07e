"""What an administrator allows is judged by the API server itself, from the chart's policy and its parameters."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from localcluster.errors import CommandFailedError
from localcluster.simulation import ControlPlane
from localcluster.state import Paths
from tests.simulation.conftest import REPOSITORY, a_plane
from tests.simulation.jobs import job, wait_for

pytestmark = pytest.mark.simulation

VALUES = {
    "allowedImages": "{registry.example/ml/*,trainer:1}",
    "allowedModels": "{s3://models/*,hf://owner/name}",
    "allowedBuckets": "{models,datasets,adapters,team-*}",
    "maxGPUs": "8",
}


def policy(**values: str) -> str:
    """The chart's policy, binding and parameters."""
    sets = [part for name, value in values.items() for part in ("--set", f"policy.{name}={value}")]
    chart = REPOSITORY / "charts" / "finetune-operator"
    only = "templates/admissionpolicy.yaml"
    command = [Paths.default().bin / "helm", "template", "r", chart, "-s", only, "--set", "policy.enabled=true", *sets]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own with the policy in force."""
    with a_plane(tmp_path_factory.mktemp("guarded") / "p") as plane:
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=policy(**VALUES))
        # The policy's own words: a job that the schema refuses anyway would end this wait at once.
        wait_for("the policy to be in force", lambda: "not allowed here" in refusal(plane, image="trainer:12"))
        yield plane


def refusal(plane: ControlPlane, **spec: Any) -> str:
    """Why the API server does not create such a job; empty if it would."""
    try:
        document = json.dumps(job("asked", **spec))
        plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=document)
    except CommandFailedError as error:
        return str(error)
    return ""


TRAIN = {"uri": "s3://datasets/train.jsonl"}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"image": "registry.example/ml/trainer:2"},
        {"image": "trainer:1"},
        {"model": {"uri": "hf://owner/name"}},
        {"model": {"uri": "s3://models/a", "adapter": {"uri": "s3://models/b"}}},
        {"output": {"uri": "s3://team-a/x"}},
        {"dataset": {"train": {"uri": "hf://datasets/somebody/data/x.jsonl"}}},
        {"dataset": {"train": {"uri": "pvc://claim/x.jsonl"}}},
        {"resources": {"gpus": 4, "nodes": 2}, "training": {"batchSize": 64}},
    ],
    ids=str,
)
def test_what_is_allowed_is_created(spec: dict[str, Any], guarded: ControlPlane) -> None:
    """Whole values, beginnings, the default image, and as many GPUs as the limit says."""
    assert refusal(guarded, **spec) == ""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"image": "trainer:12"}, "spec.image trainer:12 is not allowed here; leave it out, or use one of: registry"),
        ({"image": "registry.example/mlx"}, "spec.image registry.example/mlx is not allowed"),
        (
            {"model": {"uri": "hf://owner/names"}},
            "spec.model: hf://owner/names is not allowed here; use one of: s3://m",
        ),
        (
            {"model": {"uri": "s3://models/a", "adapter": {"uri": "s3://adapters/b"}}},
            "spec.model: s3://adapters/b is not allowed",
        ),
        ({"output": {"uri": "s3://elsewhere/x"}}, "bucket elsewhere is not allowed here; use one of: models, datasets"),
        ({"dataset": {"train": {"uri": "s3://data/x"}}}, "bucket data is not allowed"),
        ({"dataset": {"train": {**TRAIN, "more": [{"uri": "s3://more/x"}]}}}, "bucket more is not allowed"),
        ({"dataset": {"train": TRAIN, "evaluation": {"uri": "s3://held/x"}}}, "bucket held is not allowed"),
        ({"resources": {"gpus": 5, "nodes": 2}, "training": {"batchSize": 40}}, "is 10, and at most 8 are allowed"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(spec: dict[str, Any], words: str, guarded: ControlPlane) -> None:
    """Field or bucket, value, and what to use instead."""
    assert words in refusal(guarded, **spec)


def test_parameters_change_without_a_new_policy_and_empty_ones_allow_everything(guarded: ControlPlane) -> None:
    """An administrator edits a ConfigMap; a job that is there can always be suspended."""
    name = "configmap/r-finetune-operator-policy"
    guarded.apply(job("there"))
    try:
        guarded.kubectl("patch", name, "-n", "default", "--type=merge", '-p={"data": {"allowedBuckets": "none"}}')
        wait_for("the new parameters", lambda: "bucket" in refusal(guarded))
        guarded.kubectl("-n", "research", "patch", "ftj/there", "--type=merge", '-p={"spec": {"suspend": true}}')
        guarded.kubectl("patch", name, "-n", "default", "--type=merge", '-p={"data": null}')
        wait_for("no limits", lambda: not refusal(guarded, output={"uri": "s3://elsewhere/x"}, image="x:1"))
        assert refusal(guarded, model={"uri": "hf://a/b"}, resources={"gpus": 16}) == ""
    finally:
        guarded.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=policy(**VALUES))
        wait_for("the parameters as they were", lambda: "not allowed here" in refusal(guarded, image="x:1"))
