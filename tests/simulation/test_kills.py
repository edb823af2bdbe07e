"""The operator is killed at its writes, right before one and right after, again and again while it works.

`make test` takes a sample, `make soak` a thousand; SOAK_MOMENTS sets how many.
"""

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from localcluster.simulation import ControlPlane
from tests.simulation import faults
from tests.simulation.faults import of
from tests.simulation.forked_operator import Nursery, nursery
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
)
from tests.simulation.operators import Operator
from tests.simulation.proxy import FaultyApi

pytestmark = [pytest.mark.simulation, pytest.mark.timeout(1200)]
TTL = "ttlSecondsAfterFinished"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gang": {"resources": {"gpus": 1, "nodes": 2}},
    "brief": {TTL: 0},  # the operator deletes it when it has ended
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
    "PUT leases",
    "PATCH jobs",
    "DELETE finetunejobs",
)
POINTS = [(write, after, number) for write in WRITES for after in (False, True) for number in (1, 2, 3)]
"""A kind of write, whether the API server has done it, and the how many-th of a process's life it is."""
_BATCH = 50


def moments(seed: int, count: int) -> list[tuple[str, bool, int]]:
    """So many points: each of them as often as the others, in an order that the seed decides."""
    points = list(itertools.islice(itertools.cycle(POINTS), count))
    random.Random(seed).shuffle(points)
    return points


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

    def add(self, count: int) -> None:
        """Create so many of each kind."""
        for kind, spec in KINDS.items():
            names = [f"{kind}-{len(self.names) + n}" for n in range(count)]
            apply_jobs(self._plane, self._where, names, **spec)
            self.names += names


def live_until_killed(proxy: FaultyApi, operators: Nursery, work: Work, point: tuple[str, bool, int]) -> None:
    """One life of the operator, which ends at that point."""
    write, after, number = point
    matches = faults.nth(number, of(*write.split()))
    with proxy.fault(matches, faults.kills(operators.kill, after=after), times=1) as hits:
        operators.start()
        end, more = time.monotonic() + 60, time.monotonic() + 1
        while not hits:
            assert time.monotonic() < end, f"{point} never came"
            if time.monotonic() > more:
                work.add(1)
                more = time.monotonic() + 2
            time.sleep(0.02)
    assert operators.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Per kind, the status of a job that nobody disturbed."""
    with behind(plane, "unkilled", tmp_path_factory.mktemp("unkilled")) as (_, operator), operator:
        operator.wait_until_ready()
        for kind, spec in KINDS.items():
            apply_jobs(plane, "unkilled", [kind], **{key: value for key, value in spec.items() if key != TTL})
        return {name: likeness(found) for name, found in all_ended(plane, "unkilled").items()}


def check(plane: ControlPlane, where: str, names: list[str], undisturbed: dict[str, Any]) -> None:
    """Jobs per attempt = 1, nothing lost, no verdict taken back, statuses as if nothing had happened."""
    left = jobs_of(plane, where)
    assert created(plane, where) == once_each(names)
    ends = {name: "False" if name.startswith("late") else "True" for name in names}
    assert_verdicts_fell_once(plane, where, ends)
    assert set(left) == {name for name in names if not name.startswith("brief")}
    for name, resource in left.items():
        assert likeness(resource) == undisturbed[name.split("-")[0]], name


def rounds(plane: ControlPlane, seed: int, folder: Path, undisturbed: dict[str, Any]) -> None:
    """A batch of lives in a namespace of their own, and one at the end that nobody disturbs."""
    where = f"killed-{seed}"
    points = moments(seed, _BATCH)
    with behind(plane, where, folder) as (proxy, operator), nursery(operator) as operators:
        work = Work(plane, where)
        work.add(2)
        for point in points:
            live_until_killed(proxy, operators, work, point)
        operators.start()
        deadline = time.monotonic() + 120
        while not all(ended(found) and not name.startswith("brief") for name, found in jobs_of(plane, where).items()):
            assert time.monotonic() < deadline, "not all ended"
            time.sleep(0.2)
        operators.kill()
        operators.wait()
    check(plane, where, work.names, undisturbed)


def test_killed_at_every_kind_of_write(plane: ControlPlane, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """A sample of fifty: each kind of write, before and after."""
    rounds(plane, 0, tmp_path, undisturbed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 1 + max(1, int(os.environ.get("SOAK_MOMENTS", "1000")) // _BATCH)))
def test_a_thousand_kills(plane: ControlPlane, seed: int, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """As above, in another order."""
    rounds(plane, seed, tmp_path, undisturbed)
