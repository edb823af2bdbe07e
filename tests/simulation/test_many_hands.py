"""Several hands on one object: GitOps, a person and the operator each keep what is theirs."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from localcluster.errors import CommandFailedError
from localcluster.simulation import ControlPlane
from tests.simulation.conftest import a_plane
from tests.simulation.jobs import NAMESPACE, get, job, lives, verdict, wait_for
from tests.simulation.operators import Operator

pytestmark = pytest.mark.simulation


def apply(plane: ControlPlane, manager: str, resource: dict[str, Any]) -> str:
    """Server-side apply as somebody; returns what kubectl says."""
    command = ("apply", "--server-side", f"--field-manager={manager}", "-f", "-")
    return plane.kubectl(*command, stdin=json.dumps(resource))


def partly(name: str, **spec: Any) -> dict[str, Any]:
    """Only these fields of the spec."""
    return {**job(name), "spec": spec}


@pytest.mark.usefixtures("operator")
def test_two_managers_and_the_operator_never_conflict(plane: ControlPlane) -> None:
    """GitOps owns the spec but for what a person applies; the operator owns the status, and nothing else at all."""
    wanted = job("shared", suspend=True, resources={"gpus": 0})
    del wanted["spec"]["suspend"]
    apply(plane, "person", {**job("shared"), "spec": {**wanted["spec"], "suspend": True}})
    apply(plane, "gitops", wanted)
    wait_for("its status", lambda: verdict(plane, "shared")[1] == "Suspended")
    apply(plane, "person", partly("shared", suspend=True, retries=5))
    apply(plane, "gitops", wanted)
    assert get(plane, names.PLURAL, "shared")["spec"]["suspend"] is True
    assert get(plane, names.PLURAL, "shared")["spec"]["retries"] == 5

    with pytest.raises(CommandFailedError, match=r'conflict with "person".*\.spec\.retries'):
        apply(plane, "gitops", {**wanted, "spec": {**wanted["spec"], "retries": 1}})

    apply(plane, "person", partly("shared", suspend=False))
    wait_for("the verdict", lambda: verdict(plane, "shared") == ("True", "Published"))
    found = json.loads(plane.kubectl("-n", NAMESPACE, "get", "ftj/shared", "-ojson", "--show-managed-fields"))
    owners = {entry["manager"]: entry for entry in found["metadata"]["managedFields"]}
    mine = [entry for manager, entry in owners.items() if manager not in ("person", "gitops")]
    assert [(set(entry["fieldsV1"]), entry["subresource"]) for entry in mine] == [({"f:status"}, "status")]
    apply(plane, "gitops", wanted)
    assert get(plane, names.PLURAL, "shared")["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]


def test_the_last_word_on_suspend_counts(tmp_path: Path) -> None:
    """Twenty toggles at random moments of both stages: it rests where the spec says so, and ends where it may."""
    choice = random.Random(5)
    with a_plane(tmp_path / "p", lives(2.0, 2.0)) as plane, Operator(plane, tmp_path / "operator.log") as operator:
        operator.wait_until_ready()
        plane.apply(job("toggled"))
        wait_for("its Job", lambda: get(plane, names.PLURAL, "toggled").get("status", {}).get("jobName"))
        for number in range(20):
            value = json.dumps({"spec": {"suspend": number % 2 == 0}})
            plane.kubectl("-n", NAMESPACE, "patch", "ftj/toggled", "--type=merge", f"-p={value}")
            wait_for("a while", lambda: choice.random() < 0.2)
            if number in (4, 12):
                wait_for("rest", lambda: verdict(plane, "toggled")[1] == "Suspended")
                wait_for("no pod", lambda: not get(plane, "pods", namespace=NAMESPACE)["items"])
        wait_for("the verdict", lambda: verdict(plane, "toggled") == ("True", "Published"))
        stages = [a["stage"] for a in get(plane, names.PLURAL, "toggled")["status"]["attempts"]]
        assert stages == ["prepare", "train"]


def test_deletion_needs_no_operator(plane: ControlPlane, operator: Operator) -> None:
    """With nobody there, an object, what belongs to it, and a whole namespace go: no finalizer waits for us."""
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "leaves"}})
    for namespace in (NAMESPACE, "leaves"):
        resource = job("leaves")
        plane.apply({**resource, "metadata": {"name": "leaves", "namespace": namespace}})
        wait_for(
            "the verdict", lambda n=namespace: get(plane, names.PLURAL, "leaves", n).get("status", {}).get("artifact")
        )
    operator.stop()
    plane.kubectl("-n", NAMESPACE, "delete", "ftj/leaves", "--timeout=30s")
    plane.kubectl("delete", "namespace/leaves", "--timeout=90s")
    selector = f"-l{names.LABEL_JOB_NAME}=leaves"
    wait_for(
        "the Jobs and Pods to go", lambda: not plane.kubectl("-n", NAMESPACE, "get", "jobs,pods", selector, "-oname")
    )
