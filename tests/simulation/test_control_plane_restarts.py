"""The API server or etcd goes away under the operator and comes back: the work goes on where it was."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster.simulation import ControlPlane
from tests.simulation.conftest import a_plane
from tests.simulation.jobs import wait_for
from tests.simulation.laws import (
    all_ended,
    apply_jobs,
    assert_verdicts_fell_once,
    created,
    jobs_of,
    kept,
    namespace,
    once_each,
)
from tests.simulation.operators import Kubelet, Operator

pytestmark = pytest.mark.simulation


@pytest.fixture(scope="module")
def own_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One that no other test minds to see broken."""
    with a_plane(tmp_path_factory.mktemp("restarts") / "p") as plane:
        yield plane


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("program", ["kube-apiserver", "etcd"])
def test_a_program_of_the_control_plane_restarts(
    own_plane: ControlPlane, tmp_path: Path, program: str, number: signal.Signals
) -> None:
    """In order, and back at once; or killed, and away until the operator gave up: it ends with a status not zero."""
    where = f"{program}-{number.name.lower()}"
    namespace(own_plane, where)
    names = [f"job-{n}" for n in range(6)]
    operator = Operator(own_plane, tmp_path / "operator.log", namespaces=where, lease_name=where, pod_name="one")
    with Kubelet(operator) as kubelet:
        operator.wait_until_ready()
        apply_jobs(own_plane, where, names)
        wait_for("a status", lambda: any("status" in found for found in jobs_of(own_plane, where).values()))
        own_plane.stop(program, number)
        if number is signal.SIGKILL:
            wait_for("the operator to give up", lambda: kubelet.ends)
        own_plane.start(program)
        own_plane.wait_until_ready()
        all_ended(own_plane, where)
        assert 0 not in kubelet.ends
    if (program, number) == ("kube-apiserver", signal.SIGKILL):
        assert created(own_plane, where) <= once_each(names)
    else:
        assert created(own_plane, where) == once_each(names)
    assert kept(own_plane, where) == once_each(names)
    assert_verdicts_fell_once(own_plane, where, dict.fromkeys(names, "True"))
