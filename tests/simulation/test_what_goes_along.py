"""What of a FineTuneJob and of its Secret is found elsewhere afterwards: nothing but a fixed set of labels."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from localcluster.simulation import ControlPlane
from tests.simulation.jobs import NAMESPACE, get, job, verdict, wait_for
from tests.simulation.operators import Operator

pytestmark = pytest.mark.simulation
KEY = "marked-credential-7f3a9c51"
FOREIGN = {
    "argocd.argoproj.io/instance": "argo-label",
    "app.kubernetes.io/managed-by": "helm-label",
    "kustomize.toolkit.fluxcd.io/name": "flux-owner",
    "team": "team-label",
}
TOOL = {"argocd.argoproj.io/tracking-id": "tracking-annotation", "meta.helm.sh/release-name": "helm-annotation"}
ALLOWED = {
    names.LABEL_MANAGED_BY,
    "app.kubernetes.io/name",
    names.LABEL_JOB_NAME,
    names.LABEL_JOB_UID,
    names.LABEL_STAGE,
    names.LABEL_ATTEMPT,
}
OF_THE_JOB_CONTROLLER = ("batch.kubernetes.io/", "controller-uid", "job-name")


@pytest.fixture
def finished(plane: ControlPlane, tmp_path: Path) -> tuple[list[dict[str, Any]], str]:
    """All objects after a job with a Secret, and with labels of everybody's tools; and the operator's whole log."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "marked", "namespace": NAMESPACE}}
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"), KEY)
    marked = job(
        "carrier",
        storage={"secretName": "marked"},
        model={"uri": "hf://owner/tiny", "secretName": "marked"},
        training={"trackers": [{"type": "WandB", "secretName": "marked"}]},
        resources={"gpus": 1, "nodes": 2},
    )
    marked["metadata"] |= {"labels": FOREIGN, "annotations": TOOL}
    with Operator(plane, tmp_path / "log", log_level="DEBUG", pod_name="one") as operator:
        operator.wait_until_ready()
        plane.apply({**secret, "stringData": keys}, marked)
        wait_for("its end", lambda: verdict(plane, "carrier")[0] == "True")
        wait_for("the last Event", lambda: "Published" in json.dumps(about(get(plane, "events")["items"])))
    kinds = "finetunejobs,jobs,pods,services,events"
    objects = [found for found in get(plane, kinds)["items"] if "carrier" in json.dumps(found)]
    return objects, (tmp_path / "log").read_text()


def about(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events of the FineTuneJob."""
    return [event for event in events if event["involvedObject"]["name"] == "carrier"]


def test_no_credential_and_no_label_goes_along(plane: ControlPlane, finished: tuple[list[dict[str, Any]], str]) -> None:
    """Not in status, Events, annotations, run file, log, nor in what was written to the API server."""
    objects, log = finished
    assert {found["kind"] for found in objects} == {"FineTuneJob", "Job", "Pod", "Service", "Event"}
    assert "carrier" in log
    written = [entry for entry in plane.audit() if entry.get("objectRef", {}).get("resource") != "secrets"]
    for text in (json.dumps(objects), log, json.dumps(written)):
        assert KEY not in text
    pods = [found for found in objects if found["kind"] == "Pod"]
    assert all(names.ANNOTATION_RUN_FILE in pod["metadata"]["annotations"] for pod in pods)
    assert "marked" in json.dumps(pods), "they name the Secret"

    for child in [found for found in objects if found["kind"] in ("Job", "Pod", "Service")]:
        labels = child["metadata"]["labels"]
        own = {label for label in labels if not label.startswith(OF_THE_JOB_CONTROLLER)}
        assert own == ALLOWED
        assert labels[names.LABEL_MANAGED_BY] == names.MANAGED_BY
        said = json.dumps(child["metadata"])
        assert not [mark for mark in (*FOREIGN.values(), *TOOL.values()) if mark in said]
