"""Deletion, suspension and a killed operator: nothing is left behind, and nothing is done twice."""

import os
import random
import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.jobs import NAMESPACE, Json, children, condition, creations, ended, manifest, reached

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
LONG = {"training": {"maxSteps": 100_000, "batchSize": 4, "microBatchSize": 4, "checkpoints": {"everySteps": 1000}}}
SEEN = {"maxSteps": 1000, "batchSize": 4, "microBatchSize": 4, "loggingSteps": 100}
"""A fast machine does not finish it between two looks at its progress (every 3 s); a slow one does in minutes."""
KILLS = 20


def _start(cluster: Any, name: str, **spec: Any) -> Json:
    cluster.apply(manifest(name, cluster.s3.endpoint, **spec), namespace=NAMESPACE)
    job: Json = cluster.wait_for(f"training of {name}", reached(cluster, name, "Training"), timeout=300)
    return job


def test_deletion_in_training_leaves_nothing(installed: Any) -> None:
    """Deleting the FineTuneJob collects Job and pod within the pod's grace period."""
    uid = _start(installed, "doomed", **LONG)["metadata"]["uid"]
    (pod,) = children(installed, "pods", uid)

    installed.kubectl("-n", NAMESPACE, "delete", "ftj", "doomed", "--wait=false")

    grace = pod["spec"]["terminationGracePeriodSeconds"]
    installed.wait_for("the end of the pod", lambda: not children(installed, "pods", uid), timeout=grace + 15)
    installed.wait_for("the end of the Job", lambda: not children(installed, "jobs", uid), timeout=30)
    assert not _processes("finetune_trainer")


def test_suspend_frees_the_pod_and_resume_goes_on(installed: Any) -> None:
    """Suspending ends the pod with a checkpoint; resuming starts from its step and ends well, as the same attempt."""
    uid = _start(installed, "paused", method={"type": "LoRA"}, training=SEEN)["metadata"]["uid"]

    def patch(value: bool) -> None:
        body = f'{{"spec":{{"suspend":{str(value).lower()}}}}}'
        installed.kubectl("-n", NAMESPACE, "patch", "ftj", "paused", "--type=merge", "-p", body)

    patch(True)
    installed.wait_for("the pod to go", lambda: not _running(children(installed, "pods", uid)), timeout=90)
    installed.wait_for("Suspended", reached(installed, "paused", "Suspended"), timeout=30)
    patch(False)
    job = installed.wait_for("the verdict", ended(installed, "paused"), timeout=600)

    assert condition(job, "Succeeded")["reason"] == "Published", job["status"]
    assert len(creations(installed, uid)) == 1
    logs = installed.kubectl("-n", NAMESPACE, "logs", "-l", f"finetune.dev/uid={uid}", "--tail=-1")
    assert re.search(r"training from step [1-9]\d* of 1000", logs), logs


def test_a_killed_operator_makes_no_second_job(installed: Any) -> None:
    """SIGKILL of the operator at twenty seeded moments of a run: one Job, and the right end."""
    moments = random.Random(20)
    spec = {"method": {"type": "LoRA"}, "training": {"maxSteps": 60, "batchSize": 4, "microBatchSize": 4}}
    installed.apply(manifest("survivor", installed.s3.endpoint, **spec), namespace=NAMESPACE)
    pid = 0
    for _ in range(KILLS):
        (pid,) = installed.wait_for("the operator", partial(_others, "finetune_operator", pid), timeout=60)
        time.sleep(moments.uniform(0.0, 2.5))  # the moment is what is tested; nothing is waited for
        os.kill(pid, signal.SIGKILL)

    job = installed.wait_for("the verdict on survivor", ended(installed, "survivor"), timeout=600)

    assert condition(job, "Succeeded")["reason"] == "Published", job["status"]
    assert len(creations(installed, job["metadata"]["uid"])) == 1
    assert job["status"]["attempt"] == 1


def _running(pods: list[Json]) -> list[Json]:
    return [pod for pod in pods if pod["status"].get("phase") in ("Pending", "Running")]


def _others(module: str, known: int) -> set[int]:
    return _processes(module) - {known}


def _processes(module: str) -> set[int]:
    """Process ids, as this machine sees them, of containers' first processes that run this module."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            namespaced = (folder / "status").read_text().split("NSpid:", 1)[1].splitlines()[0].split()
        except (OSError, IndexError):
            continue  # it ended while we looked
        if command[:3] == ["/opt/venv/bin/python", "-m", module] and namespaced[-1] == "1":
            found.add(int(folder.name))
    return found
