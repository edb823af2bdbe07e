"""The simulation itself: a FineTuneJob goes through both stages on it, and what the pods say reaches the status."""

import pytest

from localcluster.simulation import ControlPlane
from tests.simulation.jobs import get, job, verdict, wait_for

pytestmark = pytest.mark.simulation


@pytest.mark.usefixtures("operator")
def test_a_job_runs_to_published(plane: ControlPlane) -> None:
    """Both stages, one Job each; dataset and artifact are what the pods said."""
    plane.apply(job("simple"))
    wait_for("the verdict", lambda: verdict(plane, "simple")[0] == "True")

    status = get(plane, "finetunejobs", "simple")["status"]
    assert verdict(plane, "simple") == ("True", "Published")
    assert (status["dataset"]["rows"], status["artifact"]["manifestSha256"]) == (32, "1" * 64)
    assert [attempt["stage"] for attempt in status["attempts"]] == ["prepare", "train"]
