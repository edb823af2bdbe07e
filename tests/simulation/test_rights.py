"""The chart's roles hold what the operator needs, verb by verb, and nothing else, by the API server's audit log."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.simulation import ControlPlane
from tests.simulation.conftest import a_plane
from tests.simulation.rights import Grant, Life, RefusedError, grant, installed, release

pytestmark = pytest.mark.simulation
BLOCK: Grant = ("finetune.dev", "finetunejobs/finalizers", "update")
"""Never asked for: the API server looks for it when a Job is created that blocks its owner's deletion."""
CREATE_JOB: Grant = ("batch", "jobs", "create")
NEEDED = {
    "finetune.dev finetunejobs": "get list watch delete",
    "finetune.dev finetunejobs/status": "patch",
    "finetune.dev finetunejobs/finalizers": "update",
    "batch jobs": "get list watch create patch delete",
    " services": "get create",
    " pods": "list watch",
    " events": "list create patch",
    "coordination.k8s.io leases": "get create update",
}
GRANTS: list[Grant] = [(*what.split(" "), verb) for what, verbs in NEEDED.items() for verb in verbs.split()]  # type: ignore[misc]
SAMPLE = random.Random(os.environ.get("RIGHTS_SEED", "1")).choice(GRANTS)


@pytest.fixture(scope="module")
def own_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One without anybody else's jobs."""
    with a_plane(tmp_path_factory.mktemp("rights") / "p") as plane:
        yield plane


@pytest.mark.parametrize("cluster_wide", [True, False])
def test_every_verb_is_used_and_none_is_missed(own_plane: ControlPlane, tmp_path: Path, cluster_wide: bool) -> None:
    """All kinds of jobs live and end; nothing was refused, no right was left unused, and no Secret was asked for."""
    chart = release("every" if cluster_wide else "spaced", cluster_wide=cluster_wide)
    assert cluster_wide == any(found["kind"] == "ClusterRole" for found in chart.objects)
    with installed(own_plane, chart, tmp_path) as replicas:
        life = Life(own_plane, chart, replicas)
        life.live()
        assert life.refused() == []
        assert chart.grants == set(GRANTS)
        assert life.used() == chart.grants - {BLOCK}
        assert "secrets" not in {resource for _, resource, _ in chart.grants | life.used()}


@pytest.mark.parametrize(
    "dropped",
    [pytest.param(each, marks=() if each == SAMPLE else pytest.mark.soak, id="-".join(each)) for each in GRANTS],
)
def test_without_one_verb_it_is_refused(own_plane: ControlPlane, tmp_path: Path, dropped: Grant) -> None:
    """The test above would fail: the first thing that the API server refuses is what needs that verb."""
    number = GRANTS.index(dropped)
    whole = release(f"dropped-{number}", cluster_wide=True)
    with installed(own_plane, whole.without(dropped), tmp_path) as replicas:
        life = Life(own_plane, whole, replicas)
        with pytest.raises(RefusedError):
            life.live()
        assert {grant(entry) for entry in life.refused()} == {CREATE_JOB if dropped == BLOCK else dropped}
