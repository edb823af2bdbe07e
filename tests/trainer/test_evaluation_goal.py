"""How a run stands after its evaluations, and when it has them: pure, and only by what the Trainer has logged."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.training.goal import Goal, logged
from finetune_trainer.training.schedule import Schedule
from finetune_trainer.training.scores import Scores

VALUES = st.lists(st.integers(0, 20).map(lambda n: n / 4), max_size=12)


def log(values: list[float], metric: str) -> list[dict[str, Any]]:
    """What a Trainer logs: a training loss before each evaluation, which comes every three steps."""
    entries: list[dict[str, Any]] = []
    for number, value in enumerate(values, start=1):
        scores = Scores(value) if metric == "Loss" else Scores(1.0, {metric: value})
        entries += [{"loss": 9.0, "step": 3 * number}, {**logged(scores), "step": 3 * number}]
    return entries


@given(VALUES, st.sampled_from([("Loss", -1), ("taste", 1)]))
def test_the_best_is_the_first_of_the_best(values: list[float], metric: tuple[str, int]) -> None:
    """A loss is best at its lowest, everything else at its highest; an equal later one is not better."""
    name, sign = metric
    standing = Goal(name).standing(log(values, name))

    if not values:
        assert standing.best_step == 0
        return
    wanted = max(sign * value for value in values)
    first = [sign * value for value in values].index(wanted)
    assert (standing.best_step, standing.best) == (3 * (first + 1), values[first])


@given(VALUES, st.sampled_from([("Loss", -1), ("taste", 1)]), st.sampled_from([0.0, 0.5, 2.0]))
def test_patience_counts_from_the_last_improvement(values: list[float], metric: tuple[str, int], delta: float) -> None:
    """Improvements of minDelta or less do not count, but add up; the reference is the last that did count."""
    name, sign = metric
    gains = [sign * value for value in values]
    counted = [0] if gains else []
    for number, gain in enumerate(gains):
        if gain > gains[counted[-1]] + delta:
            counted.append(number)
    expected = len(gains) - 1 - counted[-1] if gains else 0

    assert Goal(name, delta).standing(log(values, name)).stale == expected


@given(VALUES, st.integers(0, 12))
def test_nothing_is_remembered_but_the_log(values: list[float], cut: int) -> None:
    """A new process that reads the log stands where the old one stood, wherever it was cut off."""
    goal = Goal("Loss", 0.25)
    goal.standing(log(values[:cut], "Loss"))

    assert goal.standing(log(values, "Loss")) == Goal("Loss", 0.25).standing(log(values, "Loss"))


def test_a_metric_that_nothing_measures_is_refused() -> None:
    """With the names of those that there are."""
    with pytest.raises(RunError) as caught:
        Goal("taste").value(Scores(1.0, {"accuracy": 0.5, "f1": 0.5}))

    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert "taste" in caught.value.message
    assert "Loss, accuracy, f1" in caught.value.hint


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), []),
        (Schedule(steps=5), [5, 10, 12]),
        (Schedule(steps=4), [4, 8, 12]),
        (Schedule(steps=4, delay=5), [8, 12]),
        (Schedule(epochs=1), [3, 6, 9, 12]),
        (Schedule(epochs=3), [9, 12]),
        (Schedule(epochs=1, delay=2.5), [9, 12]),
    ],
)
def test_when_it_is_due(schedule: Schedule, expected: list[int]) -> None:
    """In a run of 12 steps, 3 an epoch: at every multiple and at the end, but not before the delay."""
    epochs = [(step - 1) // 3 + ((step - 1) % 3 + 1) / 3 for step in range(1, 13)]  # as the Trainer counts them

    assert [step for step, epoch in enumerate(epochs, start=1) if schedule.due(step, epoch, 12)] == expected
