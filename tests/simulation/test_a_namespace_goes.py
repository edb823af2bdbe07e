"""One of several namespaces is deleted, and with it the operator's rights there: the others are served all the same."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.simulation import ControlPlane
from tests.simulation.conftest import a_plane
from tests.simulation.jobs import lives, wait_for
from tests.simulation.laws import all_ended, apply_jobs, jobs_of
from tests.simulation.operators import Kubelet, Operator
from tests.simulation.rights import Release, installed, release

pytestmark = pytest.mark.simulation
STAYS, GOES = "stays", "goes"


@pytest.fixture(scope="module")
def own_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Its API server is started anew, so that watches end, which otherwise outlive the right to them."""
    with a_plane(tmp_path_factory.mktemp("goes") / "p", lives(train_seconds=3)) as plane:
        yield plane


def test_the_others_are_served_and_the_namespace_too_when_it_is_back(own_plane: ControlPlane, tmp_path: Path) -> None:
    """Neither a watch that is refused ends the process, nor its start; nothing of what is gone is asked for again."""
    chart = release(STAYS, GOES, cluster_wide=False)
    with installed(own_plane, chart, tmp_path) as (operator, _), patient(operator) as kubelet:
        operator.wait_until_ready()
        for where in (STAYS, GOES):
            apply_jobs(own_plane, where, ["before"])
            wait_for("its status", lambda where=where: "status" in jobs_of(own_plane, where)["before"])

        own_plane.kubectl("delete", "namespace", GOES, timeout=120)
        own_plane.stop("kube-apiserver", signal.SIGTERM)
        own_plane.start("kube-apiserver")
        own_plane.wait_until_ready()
        wait_for(
            "all three watches to be refused", lambda: refused(own_plane, chart) == {"finetunejobs", "jobs", "pods"}
        )
        apply_jobs(own_plane, STAYS, ["after"])
        all_ended(own_plane, STAYS)
        wait_for("what is gone to be forgotten", lambda: counted(operator) == 2)

        operator.terminate()
        wait_for("the next process", lambda: len(kubelet.ends) == 1)
        operator.wait_until_ready()
        apply_jobs(own_plane, STAYS, ["later"])
        all_ended(own_plane, STAYS)

        own_plane.apply(*chart.spaces, *chart.rights)
        apply_jobs(own_plane, GOES, ["again"])
        all_ended(own_plane, GOES)
        assert kubelet.ends == [0]
        assert kubelet.unhealthy == []


def patient(operator: Operator) -> Kubelet:
    """It outlives that the API server is away, which takes its time to stop: then it watches on, as if nobody knew."""
    operator.environment |= {"FINETUNE_LEASE_SECONDS": "120", "FINETUNE_LEASE_RENEW_SECONDS": "100"}
    return Kubelet(operator)


def refused(plane: ControlPlane, chart: Release) -> set[str]:
    """What the operator may no longer watch there."""
    asked = (entry for entry in plane.audit() if entry["user"]["username"] == chart.account)
    return {
        entry["objectRef"]["resource"]
        for entry in asked
        if entry["verb"] == "watch" and entry["objectRef"].get("namespace") == GOES
        if entry.get("responseStatus", {}).get("code") == 403
    }


def counted(operator: Operator) -> float:
    """The FineTuneJobs that the operator's metrics know of."""
    return sum(map(float, re.findall(r"^finetune_jobs\{.*\} (.*)$", operator.answer("/metrics")[1], re.MULTILINE)))
