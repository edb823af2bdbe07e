"""What a pass owes the API server: few writes, and none for nothing."""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.progress import Progress
from finetune_operator import metrics, reconcile
from finetune_operator.reconcile import merge_patch
from tests.controller.test_evidence import running
from tests.controller.world import KEY, World, apply

json_objects = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.integers(0, 3) | st.text("xy", max_size=1) | st.lists(st.integers(0, 2), max_size=2),
        lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(json_objects, json_objects)
def test_merge_patch_leads_from_one_to_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Applied by RFC 7386 it gives the new object, and it is empty only if there is nothing to do."""
    patch = merge_patch(old, new)
    assert apply(old, patch) == new
    assert bool(patch) == (old != new)


def test_mere_progress_is_written_at_most_every_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress waits for its turn; a new phase does not."""
    world = World()
    clock = [1000.0]
    monkeypatch.setattr(reconcile.time, "monotonic", lambda: clock[0])
    said: list[Progress] = [Progress(phase="Training", step=1, total_steps=100)]
    monkeypatch.setattr(world.reconciler._poller, "last", lambda *_: said[-1])
    running(world)
    clock[0] += 10
    said.append(Progress(phase="Training", step=2, total_steps=100))
    world.reconcile()
    before = world.writes.count("status")
    for step in range(3, 12):
        clock[0] += 0.3
        said.append(Progress(phase="Training", step=step, total_steps=100))
        left = world.reconcile()
        assert left is not None
        assert left <= 5
    assert world.writes.count("status") == before
    clock[0] += 5
    world.reconcile()
    assert world.writes.count("status") == before + 1
    assert world.status["progress"]["percentage"] == "11%"
    said.append(Progress(phase="Evaluating", step=12, total_steps=100))
    world.reconcile()
    assert world.condition()["reason"] == "Evaluating"


def test_conflict_is_no_error_and_reads_again() -> None:
    """Somebody edited the object between read and write: the next pass decides anew."""
    world = World()
    read = world.job

    async def stale(key: tuple[str, str]) -> dict[str, Any] | None:
        found = await read(key)
        assert found is not None
        found["metadata"]["resourceVersion"] = "0"
        return found

    world.job = stale  # type: ignore[method-assign]
    again = world.reconcile()
    assert again is not None
    assert again < 1
    world.job = read  # type: ignore[method-assign]
    world.settle()
    assert len(world.created) == 1


def test_metrics_name_no_object() -> None:
    """Series must not grow with the number of jobs."""
    world = World()
    world.settle()
    text = metrics.render().decode()
    assert 'finetune_jobs_finished_total{reason="Published",result="succeeded"}' in text
    assert 'finetune_jobs{state="Published"}' in text
    assert KEY[1] + '"' not in text
    assert KEY[0] not in text


def test_states_are_counted_by_their_last_word() -> None:
    """The gauge is right after any sequence of changes."""
    states, truth = metrics.States(), {}
    names = [f"state-{n}" for n in range(3)]
    for _ in range(200):
        key, state = ("n", str(random.randrange(5))), random.choice([*names, None])
        states.put(key, state)
        truth[key] = state
    for name in names:
        assert metrics.JOBS.labels(name)._value.get() == list(truth.values()).count(name)
