"""A real operator's log for machines: one JSON object a line, and each says which job it is about."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from localcluster.simulation import ControlPlane
from tests.simulation.conftest import a_plane
from tests.simulation.jobs import NAMESPACE, get, job, verdict, wait_for
from tests.simulation.operators import Operator

pytestmark = pytest.mark.simulation


@pytest.fixture
def own_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """One whose Lease may be taken away."""
    with a_plane(tmp_path / "p") as plane:
        yield plane


def test_every_line_is_one_object_and_names_its_job(own_plane: ControlPlane, tmp_path: Path) -> None:
    """From start to a crash with its traceback: no line of stdout or stderr is anything else."""
    with Operator(own_plane, tmp_path / "log", log_format="json", log_level="DEBUG") as operator:
        operator.wait_until_ready()
        own_plane.apply(job("storyteller"), job("broken", serviceAccountName="nobody"))
        wait_for("the end of one job", lambda: verdict(own_plane, "storyteller")[0] == "True")
        wait_for("the trouble of the other", lambda: verdict(own_plane, "broken")[1] == "MissingServiceAccount")
        uid = get(own_plane, "ftj", "storyteller")["metadata"]["uid"]
        lost = {"spec": {"holderIdentity": "somebody else", "leaseDurationSeconds": 3600}}
        own_plane.kubectl("patch", "lease", "finetune-operator", "--type=merge", "-p", json.dumps(lost))
        assert operator.wait(40) == 1

    lines: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] in ("debug", "info", "warning", "error", "critical")
        assert isinstance(line["message"], str)
    ours = [line for line in lines if line["logger"].startswith("finetune_operator")]
    for name in ("storyteller", "broken"):
        said = [line for line in ours if name in json.dumps(line)]
        assert all((line["object"]["namespace"], line["object"]["name"]) == (NAMESPACE, name) for line in said)
    told = [line["message"].partition(":")[0] for line in ours if line.get("object", {}).get("uid") == uid]
    assert [reason for reason in told if reason in ("Prepared", "Published")] == ["Prepared", "Published"]
    (crash,) = [line for line in lines if line["level"] == "error"]
    assert "leader election ended" in crash["message"]
    assert crash["error"].startswith("Traceback")


def test_for_people_the_lines_are_plain(plane: ControlPlane, tmp_path: Path) -> None:
    """The same beginning for everything about one job."""
    with Operator(plane, tmp_path / "log", pod_name="one") as operator:
        operator.wait_until_ready()
        plane.apply(job("plainly"))
        wait_for("its end", lambda: verdict(plane, "plainly")[0] == "True")
    said = [line for line in (tmp_path / "log").read_text().splitlines() if "Job plainly" in line]
    assert said
    assert all(line[20:].split(" ", 1)[1].strip().startswith(f"{NAMESPACE}/plainly: ") for line in said)
