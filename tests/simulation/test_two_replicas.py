"""Two replicas on a real control plane: one leads, the other takes over, and never do both write."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localcluster.simulation import ControlPlane
from tests.simulation.conftest import a_plane
from tests.simulation.jobs import NAMESPACE, get, job, verdict, wait_for
from tests.simulation.operators import Operator

pytestmark = pytest.mark.simulation
SLACK_SECONDS = 10.0  # of a busy machine, on top of what a platform team is promised


@pytest.fixture
def own_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """One on which no other operator has been."""
    with a_plane(tmp_path / "p") as plane:
        yield plane


def holder(plane: ControlPlane) -> str:
    """Who holds the Lease."""
    found = get(plane, "leases", namespace="default")["items"]
    return str(found[0]["spec"].get("holderIdentity") or "") if found else ""


def replica(plane: ControlPlane, folder: Path, name: str, **settings: str) -> Operator:
    """One replica by that name."""
    return Operator(plane, folder / f"{name}.log", pod_name=name, **settings)


def writes(plane: ControlPlane, who: str, *, since: int = 0) -> list[dict[str, Any]]:
    """Answered writes of a replica, but for its Lease; `since` is a place in the audit log."""
    return [
        entry
        for entry in plane.audit()[since:]
        if f"({who})" in entry.get("userAgent", "")
        and entry["verb"] in ("create", "update", "patch", "delete")
        and entry["objectRef"]["resource"] != "leases"
    ]


@pytest.mark.parametrize(("number", "promised"), [(signal.SIGKILL, 20.0), (signal.SIGTERM, 5.0)])
def test_the_other_takes_over(own_plane: ControlPlane, tmp_path: Path, number: signal.Signals, promised: float) -> None:
    """A killed leader is replaced when its Lease is over, one that ends in order at once; a stage has one Job.

    The latter has a Lease of a minute here: who only waits for its end comes too late.
    """
    long = {"lease_seconds": "60", "lease_renew_seconds": "40"} if number is signal.SIGTERM else {}
    with replica(own_plane, tmp_path, "one", **long) as one:
        one.wait_until_ready()
        wait_for("a leader", lambda: holder(own_plane) == "one")
        with replica(own_plane, tmp_path, "two", **long) as two:
            two.wait_until_ready()  # a standby is ready
            assert "finetune_leader 0.0" in two.answer("/metrics")[1]
            own_plane.apply(*(job(f"before-{n}") for n in range(3)))
            wait_for("the first Job", lambda: get(own_plane, "jobs")["items"])
            assert writes(own_plane, "two") == []
            one.signal(number)
            wait_for("the other to lead", lambda: holder(own_plane) == "two", timeout=promised + SLACK_SECONDS)
            if number is signal.SIGTERM:
                assert one.wait() == 0
            own_plane.apply(job("after"))
            names = [*(f"before-{n}" for n in range(3)), "after"]
            for name in names:
                wait_for(f"{name} to end", lambda name=name: verdict(own_plane, name)[0] == "True")
            jobs = get(own_plane, "jobs")["items"]
            assert sorted(j["metadata"]["labels"]["finetune.dev/job"] for j in jobs) == sorted(names * 2)


def test_a_leader_that_was_stopped_and_wakes_up_writes_nothing(own_plane: ControlPlane, tmp_path: Path) -> None:
    """Its Lease went to the other while it slept; on waking it sends no write, and ends for a restart."""
    with replica(own_plane, tmp_path, "one") as one:
        one.wait_until_ready()
        wait_for("a leader", lambda: holder(own_plane) == "one")
        with replica(own_plane, tmp_path, "two") as two:
            two.wait_until_ready()
            own_plane.apply(job("asleep"))
            wait_for("a Job of it", lambda: get(own_plane, "jobs")["items"])
            one.signal(signal.SIGSTOP)
            own_plane.apply(*(job(f"new-{n}") for n in range(5)))  # waits in its socket
            wait_for("the other to lead", lambda: holder(own_plane) == "two", timeout=40)
            before = len(own_plane.audit())
            own_plane.kubectl("-n", NAMESPACE, "delete", "ftj", "new-0")
            one.signal(signal.SIGCONT)
            assert one.wait() != 0
            for name in ("asleep", "new-4"):
                wait_for(f"{name} to end", lambda name=name: verdict(own_plane, name)[0] == "True")
            assert writes(own_plane, "two", since=before)
            assert writes(own_plane, "one", since=before) == []
