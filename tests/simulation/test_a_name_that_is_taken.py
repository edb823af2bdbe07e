"""Somebody else's Job has the name that an attempt needs: it is left alone, and the FineTuneJob says so."""

import hashlib
from typing import Any

import pytest

from finetune_api import names
from localcluster.simulation import ControlPlane
from tests.simulation.jobs import NAMESPACE, get, job, verdict, wait_for
from tests.simulation.laws import created

pytestmark = pytest.mark.simulation


def their_job(name: str, owners: list[dict[str, Any]]) -> dict[str, Any]:
    """A Job that runs nothing."""
    pod = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "simulated"}]}}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"app": "theirs"}, "ownerReferences": owners}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"suspend": True, "template": pod}}


def an_owner(plane: ControlPlane) -> dict[str, Any]:
    """A reference to something that is there."""
    plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other", "namespace": NAMESPACE}})
    uid = get(plane, "configmaps", "other")["metadata"]["uid"]
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": uid, "controller": True}


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("owned", [False, True], ids=["nobodys", "another-owners"])
def test_it_is_not_taken_over(plane: ControlPlane, owned: bool) -> None:
    """NameConflict while it is there, byte for byte as it was; when it is deleted, the job goes on by itself."""
    name = f"taken-{owned}".lower()
    plane.apply(job(name, suspend=True))
    uid = get(plane, names.PLURAL, name)["metadata"]["uid"]
    taken = f"{name}-{hashlib.sha256(f'{uid}/prepare/1'.encode()).hexdigest()[:7]}"
    plane.apply(their_job(taken, [an_owner(plane)] if owned else []))
    before = wait_for("its own controller", lambda: (found := get(plane, "jobs", taken)).get("status") and found)

    plane.kubectl("-n", NAMESPACE, "patch", names.PLURAL, name, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    wait_for("the conflict", lambda: verdict(plane, name) == ("Unknown", "NameConflict"))
    assert get(plane, "jobs", taken) == before

    plane.kubectl("-n", NAMESPACE, "delete", "job", taken)
    wait_for("the verdict", lambda: verdict(plane, name) == ("True", "Published"))
    assert created(plane, NAMESPACE)[name, "prepare", "1"] == 1
