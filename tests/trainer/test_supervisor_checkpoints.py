"""PID 1 over a worker that offers checkpoints: whatever its end, the newest is in storage, or is not claimed."""

import signal
from pathlib import Path

import pytest

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Storage
from finetune_trainer.publish import CheckpointStore
from finetune_trainer.storage import open_store
from tests.trainer.checkpoint import check_checkpoint
from tests.trainer.pid1 import READY, Start

pytestmark = pytest.mark.long

OFFER = f"""
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from finetune_trainer.publish.outbox import Outbox
from tests.trainer.checkpoint import make_checkpoint
def offer(step):
    Outbox(work / "outbox").put(make_checkpoint(work / "checkpoints" / str(step), step), step)
"""
SAVES_AT_THE_END = """
def stop(*_):
    offer(7)
    finish("Preempted", "stopped at step 7", 7)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
"""


def _newest(folder: Path) -> int:
    """The step that the next attempt would go on from; 0 for none."""
    store = open_store(f"file://{folder}/out", Storage())
    restored = CheckpointStore(store, "uid-1", lambda _: None).restore_newest(folder / "restored")
    return check_checkpoint(restored) if restored else 0


def test_the_last_checkpoint_of_a_stopped_run(start: Start, tmp_path: Path) -> None:
    """It is saved at the very end, and in storage before PID 1 is gone."""
    trainer = start(OFFER + SAVES_AT_THE_END + "offer(3)\n" + READY)
    trainer.wait_for("ready")
    trainer.process.send_signal(signal.SIGTERM)
    code, outcome, _ = trainer.ended()
    assert (code, outcome.step) == (75, 7)
    assert outcome.message == "stopped at step 7; the checkpoint of step 7 is in storage"
    assert _newest(tmp_path) == 7


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "finish('NonFiniteLoss', 'nan', 6)"])
def test_the_last_checkpoint_of_a_run_that_died(start: Start, tmp_path: Path, end: str) -> None:
    """Killed or failed, its newest checkpoint is kept, and the outcome says so."""
    code, outcome, _ = start(f"{OFFER}offer(5)\n{end}").ended()
    assert code in (70, 81)
    assert outcome.message.endswith("checkpoint, that of step 5 is in storage" if code == 81 else
                                    "the checkpoint of step 5 is in storage")  # fmt: skip
    assert _newest(tmp_path) == 5


def test_a_published_run_leaves_none(start: Start, tmp_path: Path) -> None:
    """Neither in storage nor on the disk."""
    code, _, _ = start(f"{OFFER}offer(5)\nfinish('Published', 'done', 6)").ended()
    assert code == 0
    assert _newest(tmp_path) == 0
    assert not (tmp_path / "work/outbox").exists()


def test_a_worker_that_has_to_be_killed(start: Start, tmp_path: Path) -> None:
    """At the end of the grace period the newest checkpoint still goes to storage."""
    trainer = start(OFFER + "signal.signal(15, lambda *_: None)\noffer(4)\n" + READY, "--stop-grace-seconds", "0.5")
    trainer.wait_for("ready")
    trainer.process.send_signal(signal.SIGTERM)
    code, outcome, _ = trainer.ended()
    assert (code, outcome.reason, outcome.step) == (75, Reason.PREEMPTED, 4)
    assert _newest(tmp_path) == 4


def test_storage_that_is_gone(start: Start, tmp_path: Path) -> None:
    """What cannot be uploaded in time is not claimed; the reason is told, and the end comes in time."""
    spoil = f"import shutil; shutil.rmtree({str(tmp_path / 'out')!r}); open({str(tmp_path / 'out')!r}, 'w').close()\n"
    trainer = start(OFFER + SAVES_AT_THE_END + spoil + READY, "--stop-grace-seconds", "1")
    trainer.wait_for("ready")
    trainer.process.send_signal(signal.SIGTERM)
    code, outcome, _ = trainer.ended()
    assert (code, outcome.reason, outcome.step) == (75, Reason.PREEMPTED, 0)
    assert "the checkpoint of step 7 could not be uploaded: StorageUnavailable: " in outcome.message
    assert outcome.message.endswith("none is in storage: the next attempt starts anew")


def test_storage_that_stands_still(start: Start, tmp_path: Path) -> None:
    """An upload that never ends does not hold up the end of the run."""
    fifo = f"""
offer(7)
checkpoints = Path({str(tmp_path / "out")!r}) / ".finetune/uid-1/checkpoints"
while not (checkpoints / "step-00000007/manifest.json").exists():
    time.sleep(0.01)
(checkpoints / "step-00000009").mkdir()
os.mkfifo(checkpoints / "step-00000009/.manifest.json.part")
"""
    trainer = start(OFFER + SAVES_AT_THE_END.replace("7", "9") + fifo + READY, "--stop-grace-seconds", "1")
    trainer.wait_for("ready")
    trainer.process.send_signal(signal.SIGTERM)
    code, outcome, _ = trainer.ended()
    assert (code, outcome.step) == (75, 7)
    assert "the checkpoint of step 9 could not be uploaded in time; that of step 7 is in storage" in outcome.message
