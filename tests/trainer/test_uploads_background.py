"""PID 1 brings checkpoints to storage: the newest first, again and again, and it says the truth about what is there."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcome import Outcome, Reason
from finetune_api.v1alpha1 import Storage
from finetune_trainer.publish import CheckpointStore, Outbox
from finetune_trainer.storage import open_store
from finetune_trainer.supervisor import uploads as module
from finetune_trainer.supervisor.uploads import Stored, Uploads
from finetune_trainer.supervisor.verdict import settled
from tests.trainer.checkpoint import check_checkpoint, make_checkpoint
from tests.trainer.slow import Slow

BASE = ".finetune/uid/checkpoints"
ANEW = "the next attempt starts anew"


class Bench:
    """An outbox, a slow store, and the uploads between them."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.store = Slow(open_store(f"file://{folder}/store", Storage()))
        self.outbox = Outbox(folder / "outbox")
        self.uploads = Uploads(self.outbox, self.checkpoints(), keep)
        self.uploads.start()

    def checkpoints(self) -> CheckpointStore:
        """As a new process sees them."""
        return CheckpointStore(self.store, "uid", lambda _: None)  # type: ignore[arg-type]

    def put(self, *steps: int, good: bool = True) -> None:
        """As the worker does."""
        for step in steps:
            self.outbox.put(make_checkpoint(self.folder / f"checkpoint-{step}", step), step, good=good)

    def steps(self) -> list[int]:
        """Whole or not, in storage."""
        return sorted({int(e.path.split("/")[3].removeprefix("step-")) for e in self.store.list(f"{BASE}/")})

    def finish(self, deadline: float | None = None, hear: Callable[[float], Any] = time.sleep) -> Stored:
        """The end of the run."""
        return self.uploads.finish(hear, deadline, 0.2)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Short pauses: the laws do not depend on them."""
    monkeypatch.setattr(module, "PAUSES", (0.01,))
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    made = Bench(tmp_path)
    yield made
    made.store.failures = 0
    made.uploads.discard()  # ends its thread


def test_the_newest_first_and_little_space(bench: Bench) -> None:
    """While one is under way only the newest of the others waits; it comes next, whole, and nothing stays here."""
    bench.put(1)
    assert bench.store.begun.wait(10)
    bench.put(2, 3, 4, 5)
    assert len(list((bench.folder / "outbox").iterdir())) == 2
    bench.store.open.set()
    while bench.checkpoints().newest() != 5:
        time.sleep(0.01)
    assert bench.finish() == Stored(5, 5)
    assert bench.steps() == [1, 5]
    restored = bench.checkpoints().restore_newest(bench.folder / "restored")
    assert restored is not None
    assert check_checkpoint(restored) == 5
    assert list((bench.folder / "outbox").iterdir()) == []
    bench.uploads.discard()
    assert bench.steps() == []


def test_the_last_one_does_not_wait_for_the_one_before(bench: Bench) -> None:
    """A run that ends while an older checkpoint is on its way gives that up for its last one."""
    bench.put(1)
    assert bench.store.begun.wait(10)
    bench.put(2)

    def hear(_: float) -> None:
        bench.store.open.set()

    assert bench.finish(hear=hear) == Stored(2, 2)
    assert bench.steps() == [2]


def test_a_failed_upload_is_tried_again(bench: Bench) -> None:
    """Until it succeeds; a newer checkpoint takes the place of one that failed."""
    bench.store.failures = 7
    bench.store.open.set()
    bench.put(1)
    while bench.store.failures > 3:
        time.sleep(0.001)
    bench.put(2)
    assert bench.finish() == Stored(2, 2)
    assert bench.steps()[-1] == 2


def test_pruned_by_keep_and_never_the_last_good_one(bench: Bench) -> None:
    """Two stay, and the newest one from before the loss went up."""
    bench.store.open.set()
    for step in (1, 2, 3):
        bench.put(step)
        bench.finish()
    for step in (4, 5, 6):
        bench.put(step, good=False)
        stored = bench.finish()
    assert stored == Stored(6, 3)
    assert bench.steps() == [3, 5, 6]


def test_what_did_not_arrive_is_not_claimed(bench: Bench) -> None:
    """At the deadline, or when interrupted again, the run ends and says what is missing, and why."""
    bench.store.open.set()
    bench.put(1)
    assert bench.finish().step == 1
    bench.store.failures = 10**9
    bench.put(4)
    lost = bench.finish(deadline=time.monotonic())
    assert (lost.step, lost.lost_step) == (1, 4)
    assert lost.why == "StorageUnavailable: the server answered 503"
    endless = time.monotonic() + 1000
    assert bench.finish(endless, hear=lambda _: signal.SIGINT).lost_step == 4


def test_a_restart_knows_what_is_there(bench: Bench) -> None:
    """The step in storage is known before the first upload; what lies in the outbox is of an older process."""
    bench.store.open.set()
    bench.put(3)
    bench.finish()
    stale = Outbox(bench.folder / "other")
    stale.put(make_checkpoint(bench.folder / "old", 8), 8)
    again = Uploads(stale, bench.checkpoints(), 1)
    again.start()
    assert again.finish(time.sleep, None, 0) == Stored(3)
    assert bench.steps() == [3]


@pytest.mark.parametrize(
    ("reason", "stored", "step", "message"),
    [
        (Reason.PREEMPTED, Stored(7, 7), 7, "stopped; the checkpoint of step 7 is in storage"),
        (
            Reason.PREEMPTED,
            Stored(5, 5, 7, "Unavailable: 503."),
            5,
            "stopped; the checkpoint of step 7 could not be uploaded: Unavailable: 503; that of step 5 is in storage",
        ),
        (
            Reason.PREEMPTED,
            Stored(0, 0, 7),
            0,
            f"stopped; the checkpoint of step 7 could not be uploaded in time; none is in storage: {ANEW}",
        ),
        (Reason.HANG, Stored(), 7, "stopped"),
        (Reason.DIVERGED, Stored(9, 3), 7, "stopped; the last good checkpoint, that of step 3 is in storage"),
    ],
)
def test_the_outcome_says_what_is_in_storage(reason: Reason, stored: Stored, step: int, message: str) -> None:
    """And a stopped run is no further than that."""
    told = settled(Outcome(reason=reason, message="stopped.", step=7), stored)
    assert (told.step, told.message) == (step, message)
