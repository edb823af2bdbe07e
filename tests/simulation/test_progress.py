"""Progress on a real control plane: what a trainer says is in the status soon, and nothing is read for it."""

import itertools
import time
from pathlib import Path

import pytest

from finetune_api import names
from localcluster.simulation import ControlPlane
from tests.simulation.conftest import a_plane
from tests.simulation.jobs import get, job, lives, wait_for
from tests.simulation.operators import Operator
from tests.simulation.test_deadlines import trainer, training_pod

pytestmark = pytest.mark.simulation


def ours(plane: ControlPlane, since: int) -> list[str]:
    """What the operator has asked for since that line of the audit log, but Leases and the watches."""
    entries = [entry for entry in plane.audit()[since:] if entry["userAgent"].startswith(names.MANAGED_BY)]
    said = [(entry["verb"], entry["objectRef"].get("resource", "")) for entry in entries]
    return [verb for verb, resource in said if resource != "leases" and verb != "watch"]


def test_a_trainer_that_steps_costs_writes_and_no_reads(tmp_path: Path) -> None:
    """Thirty statuses of one trainer; a read now and then, where a timer asks for one."""
    steps = itertools.count(1)
    with (
        a_plane(tmp_path / "p", lives(train_seconds=100_000)) as plane,
        Operator(plane, tmp_path / "log", progress_seconds="0.3", status_seconds="0.2") as operator,
    ):
        operator.wait_until_ready()
        plane.apply(job("steps"))
        pod = wait_for("its trainer", lambda: training_pod(plane, "steps"))
        said = {
            "phase": "Training",
            "totalSteps": 10_000,
            "resumedFrom": 0,
            "step": lambda: next(steps),
            "updatedAt": time.time,
        }

        def shown() -> int:
            return int(get(plane, names.PLURAL, "steps").get("status", {}).get("progress", {}).get("step", 0))

        with trainer(pod["status"]["podIP"], **said):
            wait_for("it to be heard", lambda: shown() > 3)
            since = len(plane.audit())
            wait_for("thirty statuses", lambda: ours(plane, since).count("patch") >= 30)
            asked = ours(plane, since)
        assert asked.count("patch") > 3 * sum(verb in ("get", "list") for verb in asked), asked
        assert set(asked) <= {"patch", "get", "list"}
