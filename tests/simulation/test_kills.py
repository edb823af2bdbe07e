"""The operator is killed at its writes, right before one and right after, again and again while it works.

`make test` takes each point once, `make soak` a thousand times one; SOAK_MOMENTS sets how many.
"""

import json
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names as known
from localcluster.simulation import ControlPlane
from tests.simulation import faults
from tests.simulation.faults import of
from tests.simulation.forked_operator import Nursery, nursery
from tests.simulation.jobs import FAILS, wait_for
from tests.simulation.laws import (
    all_ended,
    apply_jobs,
    assert_verdicts_fell_once,
    created,
    ended,
    events_of,
    jobs_of,
    likeness,
    namespace,
    once_each,
)
from tests.simulation.operators import Operator
from tests.simulation.proxy import FaultyApi

pytestmark = [pytest.mark.simulation, pytest.mark.timeout(1200)]
TTL = "ttlSecondsAfterFinished"
LEASE = "POST leases"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gang": {"resources": {"gpus": 1, "nodes": 2}},
    "brief": {TTL: 0},  # the operator deletes it when it has ended
    "fails": {"image": FAILS, "retries": 2},  # its trainer is right the third time
    "queued": {"queueName": "nobodys"},  # taken out of its queue, it goes on without one
    "late": {  # its pod finds no node: the operator gives up and suspends its Job
        "deadlines": {"pendingSeconds": 15},  # of its prepare, too, which finds one on a busy machine
        "resources": {"gpus": 1, "nodeSelector": {"there-is": "none"}},
    },
}
WRITES = (
    "POST jobs",
    "POST services",
    "PATCH finetunejobs/status",
    "POST events",
    "PATCH events",
    "PUT leases",
    "PATCH jobs",
    "DELETE jobs",
    "DELETE finetunejobs",
    LEASE,
)
COMES_OF = {
    "POST services": "gang",
    "PATCH events": "fails",
    "PATCH jobs": "late",
    "DELETE jobs": "queued",
    "DELETE finetunejobs": "brief",
}
"""What kind of job makes the operator write that; the others come of any."""
ONCE = ("PATCH events", "PATCH jobs", "DELETE jobs", LEASE)
"""What is rare, or takes its time: once before and once after it will do."""
POINTS = [
    (write, after, number)
    for write in WRITES
    for after in (False, True)
    for number in ((1,) if write in ONCE else (1, 2, 3, 4))
]
"""A kind of write, whether the API server has done it, and the how many-th of a process's life it is."""
ATTEMPTS = {
    "fails": (("prepare", "1"), ("train", "1"), ("train", "2"), ("train", "3")),
    "queued": (("prepare", "1"), ("prepare", "2"), ("train", "1")),
}
_USUAL = (("prepare", "1"), ("train", "1"))
BATCHES = math.ceil(int(os.environ.get("SOAK_MOMENTS", "1000")) / len(POINTS))


@contextmanager
def behind(plane: ControlPlane, where: str, folder: Path) -> Iterator[tuple[FaultyApi, Operator]]:
    """A namespace, a proxy, and an operator's settings for both."""
    namespace(plane, where)
    with FaultyApi(plane) as proxy:
        settings = {"namespaces": where, "lease_name": where, "pod_name": where, "retry_seconds": "1"}
        yield proxy, Operator(plane, folder / f"{where}.log", proxy.kubeconfig(folder / f"{where}.config"), **settings)


class Work:
    """Jobs for the operator, new ones whenever there may be too few."""

    def __init__(self, plane: ControlPlane, where: str) -> None:
        self._plane, self._where = plane, where
        self.names: list[str] = []

    def add(self, *kinds: str) -> None:
        """Create one of each."""
        for each in kinds:
            self.names.append(f"{each}-{len(self.names)}")
            apply_jobs(self._plane, self._where, self.names[-1:], **KINDS[each])

    def forget_the_lease(self) -> None:
        """As before the first operator."""
        self._plane.kubectl("-n", "default", "delete", "lease", self._where, "--ignore-not-found")

    def tend(self) -> dict[str, dict[str, Any]]:
        """Take each job whose Job is in the queue out of it, and let it go on; returns all as they were before."""
        found = jobs_of(self._plane, self._where)
        for name, resource in found.items():
            if name.startswith("queued") and (spec := taken_out(resource)):
                patch = json.dumps({"spec": spec})
                self._plane.kubectl("-n", self._where, "patch", known.PLURAL, name, "--type=merge", "-p", patch)
        return found


def taken_out(resource: dict[str, Any]) -> dict[str, Any]:
    """What its owner changes next."""
    spec, status = resource["spec"], resource.get("status", {})
    reasons = {found["type"]: found["reason"] for found in status.get("conditions", [])}
    if not spec.get("suspend") and "queueName" in spec and reasons.get("Succeeded") == "Queued":
        return {"suspend": True}
    if spec.get("suspend") and [attempt.get("reason") for attempt in status["attempts"]] == ["Suspended"]:
        return {"suspend": False, "queueName": None}
    return {}


def live_until_killed(proxy: FaultyApi, operators: Nursery, work: Work, point: tuple[str, bool, int]) -> None:
    """One life of the operator, which ends at that point."""
    write, after, number = point
    if write == LEASE:
        work.forget_the_lease()
    matches = faults.nth(number, of(*write.split()))
    with proxy.fault(matches, faults.kills(operators.kill, after=after), times=1) as hits:
        operators.start()
        end, more = time.monotonic() + 60, time.monotonic() + 1
        while not hits:
            assert time.monotonic() < end, f"{point} never came"
            if time.monotonic() > more:
                work.add(COMES_OF.get(write, "plain"))
                work.tend()
                more = time.monotonic() + 2
            time.sleep(0.02)
    assert operators.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Per kind, the status of a job that nobody disturbed, and its Events."""
    with behind(plane, "unkilled", tmp_path_factory.mktemp("unkilled")) as (_, operator), operator:
        operator.wait_until_ready()
        for sort, spec in KINDS.items():
            apply_jobs(plane, "unkilled", [sort], **{key: value for key, value in spec.items() if key != TTL})
        work = Work(plane, "unkilled")
        wait_for("the one in the queue to leave it", lambda: "queueName" not in work.tend()["queued"]["spec"])
        done = {name: likeness(found) for name, found in all_ended(plane, "unkilled").items()}
        wait_for("the Events", lambda: "Published" in events_of(plane, "unkilled")["plain"])
        return {"statuses": done, "events": events_of(plane, "unkilled")}


def kind(name: str) -> str:
    """Of the job with that name."""
    return name.split("-", maxsplit=1)[0]


def check(plane: ControlPlane, where: str, names: list[str], undisturbed: dict[str, Any]) -> None:
    """Jobs per attempt = 1, nothing lost, no verdict taken back, statuses as if nothing had happened.

    An Event may be lost with the process that had it to tell; none is told twice.
    """
    left = jobs_of(plane, where)
    assert created(plane, where) == sum((once_each([n], ATTEMPTS.get(kind(n), _USUAL)) for n in names), Counter())
    ends = {name: "False" if name.startswith("late") else "True" for name in names}
    assert_verdicts_fell_once(plane, where, ends)
    assert set(left) == {name for name in names if not name.startswith("brief")}
    for name, resource in left.items():
        assert likeness(resource) == undisturbed["statuses"][kind(name)], name
    for name, counted in events_of(plane, where).items():
        usual = undisturbed["events"][kind(name)]
        assert all(count <= usual[reason] for reason, count in counted.items() if reason in usual), (
            name,
            counted,
            usual,
        )


def rounds(plane: ControlPlane, seed: int, folder: Path, undisturbed: dict[str, Any]) -> None:
    """A batch of lives in a namespace of their own, and one at the end that nobody disturbs."""
    where = f"killed-{seed}"
    with behind(plane, where, folder) as (proxy, operator), nursery(operator) as operators:
        work = Work(plane, where)
        work.add(*KINDS, *KINDS)
        for point in random.Random(seed).sample(POINTS, len(POINTS)):
            live_until_killed(proxy, operators, work, point)
        operators.start()
        deadline = time.monotonic() + 120
        while not all(ended(found) and not name.startswith("brief") for name, found in work.tend().items()):
            assert time.monotonic() < deadline, "not all ended"
            time.sleep(0.2)
        operators.kill()
        operators.wait()
    check(plane, where, work.names, undisturbed)


def test_killed_at_every_kind_of_write(plane: ControlPlane, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Each of the points once, in an order of chance."""
    rounds(plane, 0, tmp_path, undisturbed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 1 + BATCHES))
def test_a_thousand_kills(plane: ControlPlane, seed: int, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """As above, in another order."""
    rounds(plane, seed, tmp_path, undisturbed)
