"""A run is given up when its loss went up for good, and never because it is noisy."""

import random
from collections.abc import Callable, Iterable

import pytest

from finetune_trainer.training.divergence import Divergence

STEPS = 100


def _fires(losses: Iterable[float], factor: float = 3, logging_steps: int = 1) -> int | None:
    """The number of the loss at which the run is given up."""
    divergence = Divergence(factor, STEPS, logging_steps)
    for number, loss in enumerate(losses, start=1):
        divergence.hear(loss)
        if divergence.certain:
            return number
    return None


NORMAL: dict[str, Callable[[random.Random, int], float]] = {
    "falls, with the noise of small batches": lambda r, n: (0.3 + 2 * 0.998**n) * r.lognormvariate(0, 1.0),
    "easy and hard rows, one a batch": lambda r, _: r.choice([0.05, 0.05, 2.5]),
    "known by heart, near zero": lambda r, n: 2.0 if n < 300 else 0.001 * r.lognormvariate(0, 2.0),
    "known by heart, then a little less": lambda r, n: (
        (2.0 if n < 300 else 0.001 if n < 1000 else 0.05) * (1 + r.random())
    ),
    "known by heart, and never quite still": lambda r, n: 2.0 * 0.99**n + 0.01 * r.random(),
    "a bad batch now and then": lambda r, n: 1000.0 if n % 7 == 0 else 1.5 + r.random(),
    "a bad stretch, overcome": lambda r, n: 40.0 if 500 < n < 545 else 1.0 + r.random(),
    "a slow rise, as with a shift to harder rows": lambda r, n: 1.0 + n / 3000 + r.random(),
}


@pytest.mark.parametrize("kind", NORMAL)
def test_noise_is_no_divergence(kind: str) -> None:
    """Three seeds, 2500 steps each: no run that a person would let go on is ended, with the defaults of the API."""
    for seed in range(3):
        chance = random.Random(seed)
        assert _fires(NORMAL[kind](chance, n) for n in range(2500)) is None, seed


@pytest.mark.parametrize("logging_steps", [1, 10])
def test_a_loss_that_goes_up_ends_the_run(logging_steps: int) -> None:
    """Within as many steps as the window has, and not before: from 1.5 to 7 for good."""
    for seed in range(10):
        chance = random.Random(seed)
        losses = [(1.5 if n < 1000 else 7.0) * chance.lognormvariate(0, 0.4) for n in range(0, 2000, logging_steps)]
        found = _fires(losses, logging_steps=logging_steps)
        assert found is not None
        assert 1000 < found * logging_steps <= 1000 + STEPS


def test_never_where_it_is_turned_off() -> None:
    """A factor of 0 lets everything pass."""
    assert _fires([1.0] * 200 + [1e9] * 1000, factor=0) is None


def test_suspected_before_it_is_certain() -> None:
    """What is saved once the loss went up is suspect within ten steps, and no longer when it comes down again."""
    divergence = Divergence(3, STEPS, 1)
    for loss in [2.0] * 150:
        divergence.hear(loss)
    assert not divergence.suspected
    for loss in [9.0] * 10:
        divergence.hear(loss)
    assert divergence.suspected
    assert not divergence.certain
    for loss in [2.0] * 10:
        divergence.hear(loss)
    assert not divergence.suspected
