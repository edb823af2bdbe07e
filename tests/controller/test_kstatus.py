"""What Flux and Helm see in every state, by their own library: wait while there is something to do, go on, or give up.

The objects come from the real reconcile; the judge is sigs.k8s.io/cli-utils (localcluster/go/checks/kstatus).
"""

import copy
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from finetune_api import names
from finetune_api.progress import Progress
from localcluster.state import REPOSITORY, Paths
from tests.controller.kueue import QueuedWorld
from tests.controller.test_evidence import running, waiting
from tests.controller.world import World

Resource = dict[str, Any]


def unseen() -> Resource:
    """Just applied: the API server's own default is all the status there is."""
    crd = yaml.safe_load((REPOSITORY / "crds" / "finetunejobs.yaml").read_text())
    (version,) = crd["spec"]["versions"]
    resource = copy.deepcopy(World(prepared=False).resource)
    assert resource is not None
    resource["status"] = version["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
    return resource


def seen(world: World, reason: str, **metadata: Any) -> Resource:
    """The object as it is now, in the state that it is taken for."""
    assert world.condition()["reason"] == reason
    resource = copy.deepcopy(world.resource)
    assert resource is not None
    resource["metadata"] |= metadata
    return resource


def runs(phase: str) -> Resource:
    """A trainer runs and says so."""
    world = World(prepared=phase != "Preparing")
    world.reconciler._poller.last = lambda *_: Progress(phase=phase, step=1)  # type: ignore[assignment,method-assign]
    running(world)
    return seen(world, phase)


def starts(node: bool) -> Resource:
    """The pod waits for a node, or for its container on one."""
    world = World()
    pod = waiting(world)
    if node:
        pod["spec"]["nodeName"] = "node-1"
        world.reconcile()
    return seen(world, "Starting" if node else "Pending")


def queued() -> Resource:
    """Kueue has not admitted it."""
    world = QueuedWorld()
    world.reconcile()
    world.reconcile()
    return seen(world, "Queued")


def unschedulable() -> Resource:
    """It waits for somebody."""
    world = World()
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    waiting(world)["status"]["conditions"] = [said]
    world.reconcile()
    return seen(world, "Unschedulable")


def retries() -> Resource:
    """An attempt failed, the next one comes after a pause."""
    world = World(outcomes=("StorageUnavailable",))
    running(world)
    world.end_pods()
    world.sync_jobs()
    world.reconcile()
    return seen(world, "Retrying")


def suspended() -> Resource:
    """By its owner, in the middle of a run."""
    world = World()
    running(world)
    world.edit(suspend=True)
    world.reconcile()
    return seen(world, "Suspended")


def ended(reason: str, **metadata: Any) -> Resource:
    """The verdict fell."""
    world = World({"retries": 0}, outcomes=(reason,))
    world.settle()
    return seen(world, reason, **metadata)


def invalid() -> Resource:
    """A spec that nobody can carry out."""
    world = World({"retries": "many"})
    world.reconcile()
    return seen(world, "InvalidSpec")


def deleted() -> Resource:
    """Deleted while it trains."""
    resource = runs("Training")
    resource["metadata"] |= {"deletionTimestamp": "2026-11-23T12:00:00Z", "finalizers": ["foregroundDeletion"]}
    return resource


STATES: dict[str, tuple[Callable[[], Resource], str]] = {
    "not seen yet": (unseen, "InProgress"),
    "Queued": (queued, "InProgress"),
    "Pending": (lambda: starts(node=False), "InProgress"),
    "Starting": (lambda: starts(node=True), "InProgress"),
    "Unschedulable": (unschedulable, "InProgress"),
    "Retrying": (retries, "InProgress"),
    "Preparing": (lambda: runs("Preparing"), "Current"),
    "Loading": (lambda: runs("Loading"), "Current"),
    "Training": (lambda: runs("Training"), "Current"),
    "Evaluating": (lambda: runs("Evaluating"), "Current"),
    "Publishing": (lambda: runs("Publishing"), "Current"),
    "Suspended": (suspended, "Current"),
    "Published": (lambda: ended("Published"), "Current"),
    "InvalidDataset": (lambda: ended("InvalidDataset"), "Failed"),
    "StorageUnavailable, no retries left": (lambda: ended("StorageUnavailable"), "Failed"),
    "InvalidSpec": (invalid, "Failed"),
    "deleted": (deleted, "Terminating"),
    "deleted after its end": (
        lambda: ended("InvalidDataset", deletionTimestamp="2026-11-23T12:00:00Z"),
        "Terminating",
    ),
    "edited while it trains": (lambda: edited(runs("Training")), "InProgress"),
    "edited after its end": (lambda: edited(ended("Published")), "InProgress"),
    "edited after it failed": (lambda: edited(ended("InvalidDataset")), "InProgress"),
}
"""The table of docs/observability.md."""


def edited(resource: Resource) -> Resource:
    """The spec is newer than what the operator has seen."""
    resource["metadata"]["generation"] += 1
    return resource


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str]:
    """What the library says of each."""
    program = Paths.default().bin / "kstatus"
    if not program.is_file():
        pytest.fail(f"{program} is missing; `python -m localcluster binaries --only checks` builds it")
    objects = "\n".join(json.dumps(make()) for make, _ in STATES.values())
    said = subprocess.run([program], input=objects, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(zip(STATES, (line.split("\t")[0] for line in said), strict=True))


@pytest.mark.parametrize("state", STATES)
def test_verdict(verdicts: dict[str, str], state: str) -> None:
    """As the table says."""
    assert verdicts[state] == STATES[state][1]


def test_every_word_of_an_active_job_is_judged() -> None:
    """A reason that is added has to say what a GitOps tool makes of it."""
    assert {reason.value for reason in names.ActiveReason} <= set(STATES)
