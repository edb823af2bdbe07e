"""Faults between the operator and a real API server: all jobs end as without them, with one Job per attempt.

Where the process cannot go on it ends with a status that is not zero, and the next one finishes the work.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localcluster.simulation import ControlPlane
from tests.simulation import faults
from tests.simulation.faults import of, writes
from tests.simulation.jobs import wait_for
from tests.simulation.laws import (
    all_ended,
    apply_jobs,
    assert_verdicts_fell_once,
    created,
    ended,
    jobs_of,
    likeness,
    namespace,
    once_each,
    refused_statuses,
)
from tests.simulation.operators import Kubelet, Operator
from tests.simulation.proxy import Fault, FaultyApi, Matches

pytestmark = pytest.mark.simulation
JOBS = [f"job-{n}" for n in range(6)]
everything = of("GET LIST WATCH POST PUT PATCH DELETE")


@pytest.fixture(scope="module")
def undisturbed(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The statuses of the same jobs where nothing went wrong."""
    namespace(plane, "undisturbed")
    log = tmp_path_factory.mktemp("undisturbed") / "operator.log"
    with Operator(plane, log, namespaces="undisturbed", lease_name="undisturbed") as operator:
        operator.wait_until_ready()
        apply_jobs(plane, "undisturbed", JOBS)
        return {name: likeness(found) for name, found in all_ended(plane, "undisturbed").items()}


@dataclass(frozen=True)
class Scene:
    """An operator behind the proxy, ready and leading, that is started again when it ends."""

    plane: ControlPlane
    proxy: FaultyApi
    kubelet: Kubelet
    where: str
    """A namespace of this test's own."""
    undisturbed: dict[str, Any]

    def apply(self) -> None:
        """Create the jobs."""
        apply_jobs(self.plane, self.where, JOBS)

    def all_ended(self) -> bool:
        """Whether every verdict fell."""
        return all(map(ended, jobs_of(self.plane, self.where).values()))

    def check(self, timeout: float = 180, *, unhealthy: int = 0) -> None:
        """Every job ends as without a fault, each attempt is one Job, and no verdict was ever taken back.

        The liveness probe failed that often; as a rule it does not, for a restart would mend nothing.
        """
        found = all_ended(self.plane, self.where, timeout=timeout)
        assert created(self.plane, self.where) == once_each(JOBS)
        assert {name: likeness(resource) for name, resource in found.items()} == self.undisturbed
        assert_verdicts_fell_once(self.plane, self.where, dict.fromkeys(JOBS, "True"))
        assert len(self.kubelet.unhealthy) == unhealthy


@pytest.fixture
def scene(
    request: pytest.FixtureRequest, plane: ControlPlane, undisturbed: dict[str, Any], tmp_path: Path
) -> Iterator[Scene]:
    """A proxy before the plane's API server, and an operator behind it."""
    callspec = getattr(request.node, "callspec", None)
    where = str(callspec.id if callspec else request.node.name.removeprefix("test_"))[:50].replace("_", "-").strip("-")
    namespace(plane, where)
    settings = {"namespaces": where, "lease_name": where, "pod_name": "one", "request_seconds": "3"}
    with FaultyApi(plane) as proxy:
        operator = Operator(plane, tmp_path / "operator.log", proxy.kubeconfig(tmp_path / "config"), **settings)
        with Kubelet(operator) as kubelet:
            operator.wait_until_ready()
            wait_for("it to lead", lambda: "finetune_leader 1.0" in operator.answer("/metrics")[1])
            wait_for("the watches", lambda: proxy.watching() == 3)
            yield Scene(plane, proxy, kubelet, where, undisturbed)
            assert 0 not in kubelet.ends  # nobody told it to end


REQUESTS: dict[str, tuple[Matches, Fault, int, float]] = {
    "conflicts-of-status": (of("PATCH", "finetunejobs/status"), faults.answers(409), 12, 1.0),
    "conflicts-of-create": (of("POST", "jobs"), faults.answers(409), 8, 1.0),
    "storm-of-429": (everything, faults.answers(429, retry_after=1), 60, 1.0),
    "429-without-retry-after": (everything, faults.answers(429), 40, 1.0),
    "outage-500": (everything, faults.answers(500), 40, 1.0),
    "outage-503": (everything, faults.answers(503), 40, 1.0),
    "outage-504-after-the-write": (writes, faults.done_but(504), 12, 0.5),
    "resets": (everything, faults.reset(), 60, 0.5),
    "lost-answers": (writes, faults.lost_answer(), 40, 0.5),
    "latency": (everything, faults.delayed(0.3), 300, 1.0),
    "writes-that-arrive-late": (writes, faults.delayed(5), 8, 0.5),  # after the operator gave up waiting
}


@pytest.mark.parametrize(("matches", "fault", "times", "rate"), REQUESTS.values(), ids=REQUESTS.keys())
def test_failing_requests(scene: Scene, matches: Matches, fault: Fault, times: int, rate: float) -> None:
    """Jobs that come while requests fail end as if none had."""
    with scene.proxy.fault(matches, fault, times=times, rate=rate) as hits:
        scene.apply()
        wait_for("the fault to be over", lambda: hits.total() == times or scene.all_ended())
        assert hits.total() >= min(times, 10)
    scene.check()


WATCHES: dict[str, tuple[Fault, int | None]] = {
    "watch-410-in-the-stream": (faults.breaks_with(410), 410),
    "watch-410-as-answer": (faults.answers(410), None),
    "watch-500-in-the-stream": (faults.breaks_with(500), 500),
    "watch-504-in-the-stream": (faults.breaks_with(504), 504),
    "watch-reset": (faults.reset(), None),
}


@pytest.mark.parametrize(("fault", "code"), WATCHES.values(), ids=WATCHES.keys())
def test_breaking_watches(scene: Scene, fault: Fault, code: int | None) -> None:
    """Open watches break, and new ones break a while longer; what happens meanwhile is not lost."""
    with scene.proxy.fault(of("WATCH"), fault, times=6) as hits:
        assert scene.proxy.break_watches(code) == 3
        scene.apply()
        wait_for("the fault to be over", lambda: hits.total() == 6)
    scene.check()


def test_silent_watches(scene: Scene) -> None:
    """Open watches go silent: after 70 s without a byte new ones are made, and the process goes on."""
    assert scene.proxy.mute_watches() == 3
    scene.apply()
    scene.check()
    assert scene.kubelet.ends == []


def test_a_status_that_arrives_when_the_job_has_ended(scene: Scene) -> None:
    """What was true once is refused, for it names the version of the object that was read."""
    with scene.proxy.fault(of("PATCH", "finetunejobs/status"), faults.delayed(15), times=3) as hits:
        scene.apply()
        wait_for("the verdicts", scene.all_ended)
        assert hits.total() == 3
    wait_for("the late ones to be refused", lambda: refused_statuses(scene.plane, scene.where) >= 3)
    scene.check()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_watches_that_stay_silent(scene: Scene) -> None:
    """New ones bring nothing either, although the API server answers: after three minutes the liveness probe fails."""
    with scene.proxy.fault(of("WATCH"), faults.silent()) as hits:
        assert scene.proxy.mute_watches() == 3
        scene.apply()
        wait_for("the liveness probe to fail", lambda: scene.kubelet.unhealthy, timeout=300)
        assert hits.total() >= 3
    scene.check(unhealthy=1)
    assert scene.kubelet.ends == [-signal.SIGKILL]


def test_a_create_that_no_list_shows_yet(scene: Scene) -> None:
    """Its answer was lost. Created again, the API server says that it exists: it is ours, and the attempt goes on."""
    lost, stale = faults.lost_create_and_stale_list()
    with scene.proxy.fault(of("POST", "jobs"), lost, rate=0.5) as hits, scene.proxy.fault(of("LIST", "jobs"), stale):
        scene.apply()
        wait_for("the verdicts", scene.all_ended)
        assert hits.total() > 3
    scene.check()
    assert scene.kubelet.ends == []
