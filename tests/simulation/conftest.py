"""A control plane of its own, on which pods say what a trainer would say, and operators as processes on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from localcluster.simulation import ControlPlane, control_plane
from tests.simulation.jobs import NAMESPACE, lives
from tests.simulation.operators import Operator

REPOSITORY = Path(__file__).parents[2]


@contextmanager
def a_plane(root: Path, stages: list[Any] | None = None) -> Iterator[ControlPlane]:
    """A control plane with a simulated node, the CRD and a namespace; `stages` are the lives of its pods."""
    with control_plane(root, stages or lives()) as plane:
        plane.install(REPOSITORY / "crds" / "finetunejobs.yaml")
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield plane


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One for all tests that leave it as it is; who breaks it makes an own one with `a_plane`."""
    with a_plane(tmp_path_factory.mktemp("plane") / "p") as plane:
        yield plane


@pytest.fixture
def operator(plane: ControlPlane, tmp_path: Path) -> Iterator[Operator]:
    """One operator as a process, ready; ended with the test. The next one has its name, and so its Lease at once."""
    with Operator(plane, tmp_path / "operator.log", pod_name="one") as running:
        running.wait_until_ready()
        yield running
