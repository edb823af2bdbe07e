"""Deadlines on a real control plane: each ends with its reason, and no pod is left that would hold a GPU."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from localcluster.simulation import ControlPlane, node
from tests.simulation.conftest import a_plane
from tests.simulation.jobs import NAMESPACE, get, job, lives, verdict, wait_for
from tests.simulation.operators import Operator

pytestmark = pytest.mark.simulation


@pytest.fixture(scope="module")
def endless_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One on which what trains goes on for ever."""
    with a_plane(tmp_path_factory.mktemp("endless") / "p", lives(train_seconds=100_000)) as plane:
        yield plane


@pytest.fixture(scope="module")
def watchful(endless_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator that asks each second."""
    log = tmp_path_factory.mktemp("watchful") / "operator.log"
    with Operator(endless_plane, log, progress_seconds="1", retry_seconds="1") as running:
        running.wait_until_ready()
        yield running


@contextmanager
def trainer(address: str, **said: Any) -> Iterator[None]:
    """What PID 1 of a trainer answers at that address; what can be called is asked each time."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({key: value() if callable(value) else value for key, value in said.items()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((address, names.TRAINER_PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def pods(plane: ControlPlane, name: str) -> list[dict[str, Any]]:
    """Pods of that FineTuneJob that are not over."""
    found = get(plane, "pods")["items"]
    own = [pod for pod in found if pod["metadata"]["labels"].get(names.LABEL_JOB_NAME) == name]
    return [pod for pod in own if pod["status"]["phase"] not in ("Succeeded", "Failed")]


def training_pod(plane: ControlPlane, name: str) -> dict[str, Any]:
    """The pod that trains, running, with an address."""

    def found() -> dict[str, Any] | None:
        running = [pod for pod in pods(plane, name) if pod["metadata"]["labels"][names.LABEL_STAGE] == "train"]
        return next((pod for pod in running if pod["status"].get("podIP")), None)

    return wait_for(f"{name} to train", found)  # type: ignore[no-any-return]


def last_attempt(plane: ControlPlane, name: str) -> dict[str, Any]:
    """As the status has it."""
    attempts = get(plane, names.PLURAL, name)["status"]["attempts"]
    return attempts[-1]  # type: ignore[no-any-return]


@pytest.mark.usefixtures("operator")
def test_no_node_within_pending_seconds(plane: ControlPlane) -> None:
    """The scheduler finds none: the verdict says so in its words, and the pod is gone."""
    nowhere = {"prepare": {"nodeSelector": {"pool": "nowhere"}}}
    plane.apply(job("nowhere", resources=nowhere, deadlines={"pendingSeconds": 3}))
    wait_for("the verdict", lambda: verdict(plane, "nowhere") == ("False", "PendingDeadlineExceeded"))
    assert "Unschedulable: 0/1 nodes are available" in last_attempt(plane, "nowhere")["message"]
    wait_for("no pod to be left", lambda: not pods(plane, "nowhere"), timeout=60)


@pytest.mark.usefixtures("watchful")
def test_no_step_within_start_seconds(endless_plane: ControlPlane) -> None:
    """The trainer answers, and loads for ever: the attempt ends, is tried again, and then it is the verdict."""
    endless_plane.apply(job("loads", retries=1, deadlines={"startSeconds": 4}))
    first = training_pod(endless_plane, "loads")
    with trainer(first["status"]["podIP"], phase="Loading", message="loading the base model"):
        wait_for("the first attempt to end", lambda: last_attempt(endless_plane, "loads")["number"] == 2)
        wait_for("its pod to go", lambda: first["metadata"]["name"] not in _names(endless_plane, "loads"), timeout=60)
    second = training_pod(endless_plane, "loads")
    with trainer(second["status"]["podIP"], phase="Loading"):
        wait_for("the verdict", lambda: verdict(endless_plane, "loads") == ("False", "StartDeadlineExceeded"))
    wait_for("no pod to be left", lambda: not pods(endless_plane, "loads"), timeout=60)
    told = get(endless_plane, names.PLURAL, "loads")["status"]["attempts"][1:]
    assert [attempt["reason"] for attempt in told] == ["StartDeadlineExceeded"] * 2
    assert "it is Loading: loading the base model" in told[0]["message"]


def _names(plane: ControlPlane, name: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods(plane, name)]


@pytest.mark.usefixtures("watchful")
def test_a_trainer_that_falls_silent(endless_plane: ControlPlane) -> None:
    """It trained, and answers no more, though its container runs: the attempt ends with the step that it reached."""
    endless_plane.apply(job("silent", retries=0, deadlines={"stallSeconds": 4}))
    pod = training_pod(endless_plane, "silent")

    def reached() -> bool:
        return bool(get(endless_plane, names.PLURAL, "silent")["status"].get("progress", {}).get("step") == 3)

    with trainer(pod["status"]["podIP"], phase="Training", step=3, totalSteps=9, resumedFrom=0, updatedAt=1.9e9):
        wait_for("its progress", reached)
    wait_for("the verdict", lambda: verdict(endless_plane, "silent") == ("False", "TrainerSilent"))
    wait_for("no pod to be left", lambda: not pods(endless_plane, "silent"), timeout=60)
    attempt = last_attempt(endless_plane, "silent")
    assert (attempt["step"], attempt["resumedFrom"], attempt["nodeName"]) == (3, 0, "simulated-0")


@pytest.mark.usefixtures("watchful")
def test_time_to_train_is_over(endless_plane: ControlPlane) -> None:
    """The clock is the status's own number, and its GPUs are free afterwards."""
    endless_plane.apply(job("long", resources={"gpus": 2}, deadlines={"activeSeconds": 3}))
    wait_for("the verdict", lambda: verdict(endless_plane, "long") == ("False", "DeadlineExceeded"))
    wait_for("no pod to be left", lambda: not pods(endless_plane, "long"), timeout=60)
    wait_for("the books to be closed", lambda: last_attempt(endless_plane, "long").get("account") == "Ended")
    status = get(endless_plane, names.PLURAL, "long")["status"]
    assert status["trainingSeconds"] >= 3
    assert status["gpuSeconds"] >= 2 * status["trainingSeconds"]


def test_a_silent_node(tmp_path: Path) -> None:
    """Its kubelet is not heard of any more: NodeLost, and another trainer only once none can be left there.

    That a node is gone for good is for a person or the cloud to say, by deleting the Node.
    """
    with (
        a_plane(tmp_path / "p", lives(train_seconds=100_000)) as plane,
        Operator(plane, tmp_path / "operator.log", retry_seconds="1"),
    ):
        plane.apply(job("lost", deadlines={"stallSeconds": 3}))
        pod = training_pod(plane, "lost")
        plane.stop("kwok")
        wait_for("the attempt to end", lambda: last_attempt(plane, "lost").get("reason") == "NodeLost", timeout=120)
        assert "node simulated-0 has not been heard of" in last_attempt(plane, "lost")["message"]
        wait_for("its Job to be deleted", lambda: pods(plane, "lost")[0]["metadata"].get("deletionTimestamp"))
        assert verdict(plane, "lost") == ("Unknown", "Retrying")
        assert _names(plane, "lost") == [pod["metadata"]["name"]]
        plane.kubectl("delete", "node", "simulated-0")
        plane.apply(node(1))
        plane.start("kwok")
        wait_for("the next attempt", lambda: last_attempt(plane, "lost")["number"] == 2, timeout=180)
        assert training_pod(plane, "lost")["spec"]["nodeName"] == "simulated-1"
        assert get(plane, names.PLURAL, "lost")["status"]["failures"] == 1


@pytest.mark.usefixtures("watchful")
def test_a_job_deleted_while_it_trains(endless_plane: ControlPlane) -> None:
    """The attempt is JobDeleted, counts, and another one follows."""
    endless_plane.apply(job("taken"))
    training_pod(endless_plane, "taken")
    endless_plane.kubectl("-n", NAMESPACE, "delete", "jobs", "-l", f"{names.LABEL_JOB_NAME}=taken")
    wait_for("the next attempt", lambda: last_attempt(endless_plane, "taken")["number"] == 2)
    status = get(endless_plane, names.PLURAL, "taken")["status"]
    assert [attempt.get("reason") for attempt in status["attempts"]][:2] == ["Prepared", "JobDeleted"]
    assert status["failures"] == 1


def test_a_job_deleted_after_the_end(plane: ControlPlane, tmp_path: Path) -> None:
    """By hand or by a TTL: no new one is made, by a new operator neither, and the verdict stays."""
    with Operator(plane, tmp_path / "one.log", leader_election="false") as running:
        running.wait_until_ready()
        plane.apply(job("done"))
        wait_for("the verdict", lambda: verdict(plane, "done") == ("True", "Published"))
        plane.kubectl("-n", NAMESPACE, "delete", "jobs", "-l", f"{names.LABEL_JOB_NAME}=done")
    before = get(plane, names.PLURAL, "done")["status"]["conditions"]
    with Operator(plane, tmp_path / "two.log", leader_election="false", resync_seconds="1") as running:
        running.wait_until_ready()
        plane.apply(job("other"))
        wait_for("another one to end", lambda: verdict(plane, "other")[0] == "True")
    labels = [found["metadata"]["labels"][names.LABEL_JOB_NAME] for found in get(plane, "jobs")["items"]]
    assert "other" in labels
    assert "done" not in labels
    assert get(plane, names.PLURAL, "done")["status"]["conditions"] == before
