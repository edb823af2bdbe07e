"""A restart looks at everything by lists: what is over costs nothing, and what happened meanwhile is noticed."""

from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from localcluster.simulation import ControlPlane
from tests.simulation.conftest import a_plane
from tests.simulation.jobs import NAMESPACE, get, job, verdict, wait_for
from tests.simulation.operators import Operator

pytestmark = pytest.mark.simulation
OVER = 12


def requests(plane: ControlPlane, start: int) -> list[dict[str, Any]]:
    """What the operator asked for since that many entries."""
    agent = "finetune-operator"
    return [e for e in plane.audit()[start:] if e["userAgent"].startswith(agent) and "objectRef" in e]


def test_a_restart_reads_lists_and_acts_where_something_happened(tmp_path: Path) -> None:
    """Finished jobs are not read one by one; one created, one ended and one deleted while nobody watched are."""
    with a_plane(tmp_path / "p") as plane:
        with Operator(plane, tmp_path / "first.log") as operator:
            operator.wait_until_ready()
            plane.apply(*(job(f"over-{number}") for number in range(OVER)))
            for number in range(OVER):
                wait_for("the verdict", lambda n=number: verdict(plane, f"over-{n}")[0] == "True")
            plane.apply(job("waits", resources={"gpus": 1, "nodeSelector": {"no": "where"}}))
            wait_for("its Job", lambda: get(plane, names.PLURAL, "waits").get("status", {}).get("jobName"))
        plane.kubectl("-n", NAMESPACE, "delete", names.PLURAL, "over-0", "--wait=false")
        plane.apply(job("new"))
        start = len(plane.audit())

        with Operator(plane, tmp_path / "second.log") as operator:
            operator.wait_until_ready()
            wait_for("the new one's verdict", lambda: verdict(plane, "new") == ("True", "Published"))
            wait_for(
                "all to be counted",
                lambda: f'finetune_jobs{{state="Published"}} {OVER}.0' in operator.answer("/metrics")[1],
            )
            asked = requests(plane, start)

        read = {entry["objectRef"].get("name") for entry in asked if entry["verb"] == "get"}
        assert not {f"over-{number}" for number in range(OVER)} & read
        assert "new" in read
        written = [
            e for e in asked if e["verb"] in ("create", "patch", "update") and "over" in e["objectRef"].get("name", "")
        ]
        assert written == []
