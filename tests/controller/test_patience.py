"""What others in the cluster do not let through: told on the job, tried again with pauses, never fought over."""

from typing import Any

import pytest

from finetune_operator.errors import RefusedError
from finetune_operator.patience import Patience
from tests.controller.kueue import QueuedWorld
from tests.controller.test_evidence import running
from tests.controller.world import KEY, SETTINGS, World

HOOK = 'Internal error occurred: failed calling webhook "vjob.kb.io": connection refused'


def test_a_webhook_that_is_down_is_asked_less_and_less() -> None:
    """15 s, then twice as long each time up to five minutes; one that answers again starts anew."""
    patience = Patience(SETTINGS)
    assert [patience.refused(KEY, "WebhookUnavailable") for _ in range(7)] == [15, 30, 60, 120, 240, 300, 300]
    assert [patience.refused(KEY, "QuotaExceeded") for _ in range(3)] == [15, 15, 15]
    assert patience.refused((KEY[0], "another"), "WebhookUnavailable") == 15
    patience.accepted(KEY)
    assert patience.refused(KEY, "WebhookUnavailable") == 15


def test_a_job_that_others_suspend_is_resumed_now_and_then() -> None:
    """Once in 15 s, whatever happens between; one that we suspend may be resumed at once."""
    now = [0.0]
    patience = Patience(SETTINGS, clock=lambda: now[0])
    tried = []
    for second in range(40):
        now[0] = float(second)
        if patience.may_resume(KEY):
            patience.acted(KEY, suspend=False)
            tried.append(second)
    assert tried == [0, 15, 30]
    patience.acted(KEY, suspend=True)
    assert patience.may_resume(KEY)


def test_no_fight_over_a_job_that_somebody_keeps_suspended() -> None:
    """Kueue does so where it manages Jobs without a queue: one write, however often it happens; the remedy is named."""
    world = World()
    running(world)
    (job,) = world.jobs.values()
    for _ in range(20):
        job["spec"]["suspend"] = True
        world.reconcile()
    assert world.writes.count("suspend") == 1
    assert world.condition("Suspended")["status"] == "False"
    assert world.condition()["reason"] == "Pending"
    assert "spec.queueName" in world.condition()["message"]


def test_suspended_and_resumed_in_one_breath() -> None:
    """What spec.suspend says is done at once, each time."""
    world = World()
    running(world)
    (job,) = world.jobs.values()
    for number in range(6):
        world.edit(suspend=number % 2 == 0)
        world.reconcile()
        assert job["spec"]["suspend"] is (number % 2 == 0)


@pytest.mark.parametrize("suspend", [True, False])
def test_suspending_while_a_webhook_is_down(suspend: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job says why it does not stop, or go on; it does when the webhook is back."""
    world = World()
    running(world)
    world.edit(suspend=not suspend)
    world.reconcile()
    asked: list[bool] = []

    async def down(*_: Any, **how: bool) -> None:
        asked.append(how["suspend"])
        raise RefusedError("WebhookUnavailable", HOOK)

    with monkeypatch.context() as patched:
        patched.setattr(world, "set_suspend", down)
        world.edit(suspend=suspend)
        assert world.reconcile() == 15
    assert asked == [suspend]
    assert (world.condition()["status"], world.condition()["reason"]) == ("Unknown", "WebhookUnavailable")
    assert HOOK in world.condition()["message"]
    assert world.condition("Suspended")["status"] == "False"
    world.reconcile()
    (job,) = world.jobs.values()
    assert job["spec"].get("suspend", False) is suspend
    assert world.condition()["reason"] != "WebhookUnavailable"


def test_a_verdict_stands_while_what_still_runs_cannot_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pending deadline is over and a webhook is down: the job has failed, and its Job is stopped later."""
    world = World({"deadlines": {"pendingSeconds": 60}})
    world.reconcile()
    world.pass_time(61)
    world.reconcile()
    verdict = world.condition()
    assert verdict["status"] == "False"

    async def down(*_: Any, **__: bool) -> None:
        raise RefusedError("WebhookUnavailable", HOOK)

    with monkeypatch.context() as patched:
        patched.setattr(world, "set_suspend", down)
        assert world.reconcile() == 15
    assert world.condition() == verdict
    world.reconcile()
    (job,) = world.jobs.values()
    assert job["spec"]["suspend"] is True


def test_kueues_words_are_told_of_a_job_that_was_never_seen_running() -> None:
    """A restarted operator may find it stopped before it has ever seen its pod."""
    world = QueuedWorld()
    world.reconcile()
    world.admit()
    world.evict()
    world.restart()
    world.reconcile()
    assert "Preempted to accommodate a workload" in world.condition()["message"]
