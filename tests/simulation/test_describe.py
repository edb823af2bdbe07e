"""What `kubectl describe` prints of a job, from a real API server."""

import pytest

from localcluster.simulation import ControlPlane
from tests.simulation.jobs import NAMESPACE, job, verdict, wait_for

pytestmark = pytest.mark.simulation


@pytest.mark.usefixtures("operator")
def test_it_ends_with_the_story_in_order(plane: ControlPlane) -> None:
    """One line for each thing that happened, the newest last, each with its Job or its result."""

    def events() -> list[str]:
        text = plane.kubectl("-n", NAMESPACE, "describe", "finetunejob", "told")
        return text.partition("Events:")[2].splitlines()[3:]

    plane.apply(job("told"))
    wait_for("the verdict", lambda: verdict(plane, "told")[0] == "True")
    lines = wait_for("the last Event", lambda: events() if "Published" in "".join(events()) else None)
    assert [line.split()[:2] for line in lines] == [
        ["Normal", "PrepareStarted"],
        ["Normal", "Prepared"],
        ["Normal", "TrainStarted"],
        ["Normal", "Published"],
    ]
    assert all("finetune-operator" in line for line in lines)
    assert "prepare attempt 1 is Job told-" in lines[0]
    assert lines[-1].endswith("the adapter is published")
