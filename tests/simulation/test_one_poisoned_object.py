"""One object among many that the schema lets through and no pass can work on: it says so, and costs nobody anything."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from localcluster.simulation import ControlPlane
from tests.simulation.jobs import get, wait_for
from tests.simulation.laws import apply_jobs, created, ended, jobs_of, namespace, once_each
from tests.simulation.operators import Operator

pytestmark = [pytest.mark.simulation, pytest.mark.timeout(900)]
NAME = "a-poisoned"  # so it is the first in the list that the operator starts with
STALLED_SECONDS = 30
PASSES = 12
"""More than the queue's growing pauses (0.5 s, 1 s, 2 s, ...) leave room for in ten minutes."""
REQUESTS_OF_A_PASS = 5


def poison(plane: ControlPlane, where: str, name: str) -> dict[str, Any]:
    """A FineTuneJob whose status names a stage of a version to come."""
    apply_jobs(plane, where, [name])
    entry = {"stage": "distil", "number": 1, "jobName": f"{name}-1", "reason": "StorageUnavailable"}
    patch = json.dumps({"status": {"attempts": [entry]}})
    plane.kubectl("-n", where, "patch", names.PLURAL, name, "--subresource=status", "--type=merge", "-p", patch)
    return get(plane, names.PLURAL, name, where)


def nobodys_job() -> dict[str, Any]:
    """A Job that carries our label and does not say whose it is."""
    container = {"name": "c", "image": "simulated"}
    pod = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": "nobodys", "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"suspend": True, "template": pod}}


def condition(resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """One of its conditions."""
    found = resource.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == kind), {})


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.soak)])
def test_the_others_do_not_notice(plane: ControlPlane, tmp_path: Path, count: int) -> None:
    """It is stalled with a reason in time, asks for a few passes and no more, and all others end as ever."""
    where = f"poisoned-{count}"
    namespace(plane, where)
    poisoned = poison(plane, where, NAME)
    stray = nobodys_job()
    stray["metadata"]["namespace"] = where
    plane.apply(stray)
    others = [f"job-{n}" for n in range(count)]
    for start in range(0, count, 100):
        apply_jobs(plane, where, others[start : start + 100])
    since = len(plane.audit())
    with Operator(plane, tmp_path / "operator.log", namespaces=where, lease_name=where, pod_name="one") as operator:
        operator.wait_until_ready()

        def stalled() -> bool:
            return condition(get(plane, names.PLURAL, NAME, where), "Stalled").get("status") == "True"

        wait_for("it to be stalled", stalled, timeout=STALLED_SECONDS)
        wait_for(
            "the others to end",
            lambda: sum(map(ended, jobs_of(plane, where).values())) == count,
            timeout=60 + count / 2,
        )
        assert operator.process is not None
        assert operator.process.poll() is None
        assert operator.answer("/healthz")[0] == 200
    told = condition(get(plane, names.PLURAL, NAME, where), "Stalled")
    assert told["reason"] == "InternalError"
    assert "distil" in told["message"]
    assert created(plane, where) == once_each(others)
    asked = [entry for entry in plane.audit()[since:] if names.MANAGED_BY in entry.get("userAgent", "")]
    about = [e for e in asked if f"/{NAME}" in e["requestURI"] or poisoned["metadata"]["uid"] in e["requestURI"]]
    assert 0 < len(about) <= PASSES * REQUESTS_OF_A_PASS
    assert "KeyError" not in operator.log.read_text()
