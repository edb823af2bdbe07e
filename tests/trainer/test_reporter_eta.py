"""The expected time to the end of training, as people and the status see it."""

import itertools
from pathlib import Path

import pytest

from finetune_trainer.training import reporter as module
from finetune_trainer.training.reporter import Reporter
from finetune_trainer.workdir import WorkDir

WARM_UP, STEP = 90.0, 2.0
"""Seconds of the first step of a session, and of every other one."""


@pytest.mark.parametrize("resumed_at", [0, 60])
@pytest.mark.parametrize("pieces", [1, 4])
def test_warm_up_is_no_pace(resumed_at: int, pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first piece of a session, which compiles and allocates, says nothing; from the second on the pace is exact.

    A piece is an optimizer step, or one of its micro-batches; and a resumed session counts its own steps only.
    """
    clock = {"now": 1000.0}
    monkeypatch.setattr(module.time, "monotonic", lambda: clock["now"])
    reporter = Reporter("job", WorkDir(tmp_path), talks=True)
    reporter.start_training(resumed_at, 100, [])
    told = []
    for done in itertools.islice(itertools.count(1), 3 * pieces):
        clock["now"] += WARM_UP if done == 1 else STEP / pieces
        step, part = divmod(done, pieces)
        reporter.advance(resumed_at + step, 0.0, part / pieces)
        told.append(reporter.progress.eta_seconds)
    assert WorkDir(tmp_path).read_progress().resumed_from == resumed_at  # type: ignore[union-attr]
    left = [STEP * (100 - resumed_at - done / pieces) for done in range(1, 3 * pieces + 1)]
    assert told[0] is None
    assert told[1:] == [round(seconds) for seconds in left[1:]]
