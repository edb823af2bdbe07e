"""A trainer or a node that is not heard of any more: what counts as silence, and what follows."""

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.progress import Progress
from finetune_operator.progress import Poller
from tests.controller.test_deadlines import TRAINING, let_pods_go, live, verdict
from tests.controller.test_evidence import running
from tests.controller.world import KEY, World, run, stamp


def test_a_trainer_that_answered_and_does_not_any_more() -> None:
    """Its container counts as running, and may hold GPUs for ever: it is stopped and tried again, and counted."""
    world = World({"deadlines": {"stallSeconds": 900}})
    running(world)
    world.say(**TRAINING, step=3)
    assert world.reconcile() == 900
    world.pass_time(899)
    world.say(**TRAINING, step=4)
    assert world.reconcile() == 900
    world.pass_time(900)
    world.reconcile()
    (attempt,) = world.attempts
    assert (attempt["reason"], attempt["step"], attempt["nodeName"]) == ("TrainerSilent", 4, "node-1")
    assert "node node-1" in attempt["message"]
    let_pods_go(world)
    assert live(world) == []
    world.settle()
    assert verdict(world) == ("True", "Published")
    assert world.status["failures"] == 1


def test_a_new_operator_counts_silence_anew() -> None:
    """What it has not heard itself is no silence; it ends nothing that it could not reach."""
    world = World({"deadlines": {"stallSeconds": 900}})
    running(world)
    world.say(**TRAINING, step=3)
    world.reconcile()
    world.restart()
    world.pass_time(100_000)
    world.reconcile()
    assert "reason" not in world.attempts[0]


def silence_node(world: World) -> None:
    """What the node controller writes for the pods of a node whose kubelet is not heard of."""
    world.silent_nodes.add("node-1")
    for pod in live(world):
        ready = {"type": "Ready", "status": "False", "lastTransitionTime": stamp(world.now)}
        pod["status"]["conditions"] = [ready, {"type": "ContainersReady", "status": "True"}]


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_silent_node(nodes: int) -> None:
    """The attempt ends as NodeLost, and the next one waits until no trainer can be left there."""
    world = World({"deadlines": {"stallSeconds": 900}, "resources": {"gpus": 0, "nodes": nodes}})
    world.reconcile()
    world.make_pods()
    world.start_pods()
    silence_node(world)
    assert world.reconcile() == 900
    world.restart()
    world.pass_time(900)
    world.reconcile()
    (attempt,) = world.attempts
    assert attempt["reason"] == "NodeLost"
    assert "node node-1" in attempt["message"]
    let_pods_go(world)
    world.pass_time(10_000)
    let_pods_go(world)
    assert live(world), "nobody can end what does not listen"
    assert len(world.created) == 1
    assert verdict(world) == ("Unknown", "Retrying")
    assert "delete the Node" in world.condition()["message"]
    world.pods.clear()  # somebody did, and the pods' garbage collector has taken them
    world.silent_nodes.clear()
    world.sync_jobs()
    world.settle()
    assert verdict(world) == ("True", "Published")
    assert (len(world.created), world.status["failures"]) == (2, 1)


def test_a_trainer_that_answers_is_alive_whatever_is_said_of_its_node() -> None:
    """A pod of which a sidecar is not ready, a kubelet that restarts: nothing is lost."""
    world = World({"deadlines": {"stallSeconds": 900}})
    running(world)
    silence_node(world)
    for step in range(30):
        world.say(**TRAINING, step=step)
        world.reconcile()
        world.pass_time(100)
    assert "reason" not in world.attempts[0]


@pytest.mark.parametrize("more", [{"reason": "ContainersNotReady"}, {"reason": "ReadinessGatesNotReady"}])
def test_not_ready_by_the_kubelets_own_word_is_no_silence(more: dict[str, str]) -> None:
    """It speaks, and gives a reason."""
    world = World({"deadlines": {"stallSeconds": 900}})
    running(world)
    silence_node(world)
    world.pods[-1]["status"]["conditions"][0] |= more
    world.reconcile()
    world.pass_time(5000)
    world.reconcile()
    assert "reason" not in world.attempts[0]


def test_a_node_that_comes_back_in_time_costs_nothing() -> None:
    """Its kubelet says Ready again."""
    world = World({"deadlines": {"stallSeconds": 900}})
    pod = running(world)
    silence_node(world)
    world.pass_time(899)
    world.reconcile()
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True", "lastTransitionTime": stamp(world.now)}]
    world.pass_time(5000)
    world.reconcile()
    assert "reason" not in world.attempts[0]


def test_a_node_that_is_gone_is_a_preemption() -> None:
    """Its pods fail as disrupted, the Job replaces them: nothing is counted against the job."""
    world = World()
    pod = running(world)
    pod["status"] |= {
        "phase": "Failed",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": stamp(world.now)}],
    }
    world.reconcile()
    world.settle()
    assert verdict(world) == ("True", "Published")
    assert (world.status["preemptions"], world.status["failures"], len(world.created)) == (1, 0, 1)


def test_a_deletion_that_never_ends_is_a_silent_node() -> None:
    """The pod's grace period is over, its kubelet has not ended it, and nobody has said why: counted from there."""
    world = World({"deadlines": {"stallSeconds": 900}})
    pod = running(world)
    world.silent_nodes.add("node-1")
    pod["metadata"]["deletionTimestamp"] = stamp(world.now + timedelta(seconds=60))  # when the grace period ends
    assert world.reconcile() == 960
    world.pass_time(959)
    world.reconcile()
    assert "reason" not in world.attempts[0]
    world.pass_time(1)
    world.reconcile()
    assert world.attempts[0]["reason"] == "NodeLost"


class Trainers:
    """Several of them, asked by one operator."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.now = 0.0
        self.poller = Poller(3, lambda _: None, clock=lambda: self.now)
        for name in names:
            self.poller.follow(self._key(name), name, "10.0.0.1")
        self._speaking = ""
        monkeypatch.setattr(self.poller, "_ask", self._ask)

    async def _ask(self, _: Any, target: Any) -> Progress | None:
        return (
            Progress.model_validate({**TRAINING, "updated_at": self.now}) if target.job_name == self._speaking else None
        )

    @staticmethod
    def _key(name: str) -> tuple[str, str]:
        """A name of capitals lies in another namespace."""
        return ("elsewhere" if name.isupper() else KEY[0]), name

    def say(self, at: float, *names: str) -> None:
        """These answer then."""
        self.now = at
        for name in names:
            self._speaking, key = name, self._key(name)
            run(self.poller._turn(None, key, self.poller._targets[key], at))  # type: ignore[arg-type]

    def in_vain(self, name: str) -> float | None:
        """See Poller."""
        return self.poller.in_vain(self._key(name), name, "10.0.0.1")

    def silence(self, name: str, *, spoke: bool = False) -> float | None:
        """See Poller."""
        return self.poller.silence(self._key(name), name, "10.0.0.1", spoke=spoke)


def test_one_is_silent_if_another_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all fall silent at once it is the operator that hears nothing, and that ends nobody."""
    trainers = Trainers(monkeypatch, "a", "b")
    assert trainers.silence("a") is None
    trainers.say(10, "a", "b")
    trainers.now = 1000
    assert (trainers.silence("a"), trainers.silence("b")) == (0, 0)
    trainers.say(1000, "b")
    assert (trainers.silence("a"), trainers.silence("b")) == (990, 0)


def test_a_wall_around_a_namespace_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Network policies are of a namespace: what answers elsewhere shows no way to who lives behind one."""
    trainers = Trainers(monkeypatch, "a", "b", "c", "ELSE")
    trainers.say(10, "a", "b", "ELSE")
    trainers.say(1000, "ELSE")
    assert [trainers.silence(name) for name in ("a", "b")] == [0, 0]
    assert trainers.silence("c", spoke=True) == 1000, "a and b have answered since it was asked first"
    assert trainers.in_vain("c") == 1000
    lonely = Trainers(monkeypatch, "c", "ELSE")
    lonely.say(1000, "ELSE")
    assert (lonely.silence("c", spoke=True), lonely.in_vain("c")) == (0, None)
    lonely.say(1010, "c")
    lonely.say(2000, "ELSE")
    assert lonely.silence("c") == 990


def test_the_only_one_is_silent_if_it_was_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else can tell whether there is a way to it."""
    trainers = Trainers(monkeypatch, "a")
    trainers.say(10, "a")
    trainers.now = 1000
    assert trainers.silence("a") == 990


def test_a_new_operator_counts_the_silence_of_who_spoke_to_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """From when it asks, and once another one answers; who has never spoken to anybody is never silent."""
    trainers = Trainers(monkeypatch, "a", "b")
    trainers.now = 1000
    assert trainers.silence("a", spoke=True) == 0
    trainers.say(1000, "b")
    assert trainers.silence("a", spoke=True) == 1000
    assert trainers.silence("a") is None


def test_asked_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who never answers, while another does; nobody is, where nobody does, and none who has answered."""
    trainers = Trainers(monkeypatch, "a", "b")
    trainers.now = 500
    assert trainers.in_vain("a") is None
    trainers.say(500, "b")
    trainers.now = 600
    assert (trainers.in_vain("a"), trainers.in_vain("b")) == (600, None)


def test_a_container_that_never_answers_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong entrypoint, say, holds its GPUs no longer than startSeconds; a new operator waits as long again."""
    world = World({"deadlines": {"startSeconds": 3600}})
    running(world)
    asked: list[float | None] = [None]
    monkeypatch.setattr(world.ears, "in_vain", lambda *_: asked[0])
    world.pass_time(100_000)
    world.reconcile()
    assert "reason" not in world.attempts[0]
    asked[0] = 3599.0
    assert world.reconcile() == 1
    asked[0] = 3600.0
    world.reconcile()
    assert world.attempts[0]["reason"] == "StartDeadlineExceeded"
    assert "has never answered" in world.attempts[0]["message"]
    assert world.status["failures"] == 1


def test_the_status_tells_who_has_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this trainer said, not what an earlier one did."""
    world, asked = World(), []

    def silence(*_: Any, spoke: bool = False) -> None:
        asked.append(spoke)

    pod = running(world)
    world.say(**TRAINING, step=3)
    world.reconcile()
    world.restart()
    monkeypatch.setattr(world.ears, "silence", silence)
    world.reconcile()
    world.pass_time(10)
    pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = stamp(world.now)
    world.reconcile()
    assert asked == [True, False]
