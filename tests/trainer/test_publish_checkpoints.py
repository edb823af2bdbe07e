"""Only whole checkpoints count: the newest of them is restored, and never pruned."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.v1alpha1 import Storage
from finetune_trainer.errors import RunError
from finetune_trainer.publish import CheckpointStore
from finetune_trainer.storage import Store, open_store

BASE = ".finetune/uid/checkpoints"


class Bench:
    """Checkpoints of one job, each with the number of its step inside."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.said: list[str] = []
        self.checkpoints = self.fresh()

    def fresh(self) -> CheckpointStore:
        """As a new process sees them."""
        return CheckpointStore(self.store, "uid", self.said.append)

    def save(self, *steps: int) -> None:
        """Save one checkpoint for each step."""
        for step in steps:
            source = self.folder / f"source-{step}"
            source.mkdir(exist_ok=True)
            (source / "adapter.safetensors").write_text(str(step))
            for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
                (source / name).write_text("state")
            self.checkpoints.save(source, step)

    def restored(self) -> int | None:
        """The step that a new process goes on from."""
        found = self.fresh().restore_newest(self.folder / "target")
        if found is None:
            return None
        assert found == self.folder / f"target/checkpoint-{(found / 'adapter.safetensors').read_text()}"
        return int((found / "adapter.safetensors").read_text())

    def steps(self) -> set[int]:
        """The steps that have any object at all."""
        return {int(entry.path.split("/")[-2].removeprefix("step-")) for entry in self.store.list(f"{BASE}/")}


@pytest.fixture(params=["s3", "file"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, s3_uri: str, s3_storage: Storage) -> Bench:
    """An empty place."""
    uri = s3_uri if request.param == "s3" else f"file://{tmp_path}/store"
    return Bench(open_store(uri, s3_storage), tmp_path)


@pytest.fixture
def local(tmp_path: Path) -> Bench:
    """An empty place in a folder."""
    return Bench(open_store(f"file://{tmp_path}/store", Storage()), tmp_path)


def test_newest_is_restored(bench: Bench) -> None:
    """The newest comes back; none is no error."""
    assert bench.restored() is None
    bench.save(9, 100, 20)
    assert bench.restored() == 100


@pytest.mark.parametrize("harm", ["changed", "lost", "no manifest", "half a manifest", "escaping", "empty manifest"])
def test_broken_is_passed_over(local: Bench, harm: str) -> None:
    """A checkpoint that is not whole is passed over with a sentence, and nothing of it stays."""
    local.save(1, 2)
    base = f"{BASE}/step-00000002"
    if harm == "changed":
        local.store.write(f"{base}/optimizer.pt", b"stat3")
    elif harm == "lost":
        local.store.delete(f"{base}/optimizer.pt")
    elif harm == "no manifest":
        local.store.delete(f"{base}/manifest.json")
    else:
        local.store.write(f"{BASE}/x", b"outside")
        escaping = json.dumps({"files": {"../x": {"sha256": hashlib.sha256(b"outside").hexdigest()}}}).encode()
        bad = {"half a manifest": b'{"files"', "escaping": escaping}
        local.store.write(f"{base}/manifest.json", bad.get(harm, b'{"files": {}}'))
    assert local.restored() == 1
    assert sorted(path.name for path in (local.folder / "target").iterdir()) == ["checkpoint-1"]
    if harm != "no manifest":
        assert any(sentence.startswith("Passed over the checkpoint of step 2") for sentence in local.said)


def test_restore_replaces(local: Bench) -> None:
    """What an earlier process left in the target is replaced, never mixed."""
    local.save(5)
    (local.folder / "target/checkpoint-5").mkdir(parents=True)
    (local.folder / "target/checkpoint-5/stale").write_text("stale")
    assert local.restored() == 5
    assert not (local.folder / "target/checkpoint-5/stale").exists()


def test_saved_again(local: Bench) -> None:
    """A step that is saved again replaces the older one."""
    local.save(3)
    (local.folder / "source-3/optimizer.pt").write_text("other")
    local.checkpoints.save(local.folder / "source-3", 3)
    found = local.fresh().restore_newest(local.folder / "target")
    assert found is not None
    assert (found / "optimizer.pt").read_text() == "other"


def test_prune(bench: Bench) -> None:
    """The newest stay, as many as asked for; other jobs and the adapter are not touched."""
    others = ("adapter_model.safetensors", ".finetune/other/checkpoints/step-00000001/manifest.json")
    for path in others:
        bench.store.write(path, b"")
    bench.save(1, 2, 3, 4)
    bench.checkpoints.prune(2)
    assert bench.steps() == {3, 4}
    bench.checkpoints.prune(0)
    assert bench.steps() == {4}
    bench.checkpoints.clear()
    assert bench.steps() == set()
    assert [bench.store.exists(path) for path in others] == [True, True]


def test_prune_keeps_the_newest_whole_one(local: Bench) -> None:
    """A broken newest one does not count: the newest whole one stays, for a process that did not save it, too."""
    local.save(1, 2, 3)
    local.store.write(f"{BASE}/step-00000003/optimizer.pt", b"broken")
    local.fresh().prune(1)
    assert local.restored() == 2


def test_prune_without_any_whole_one(local: Bench) -> None:
    """Where nothing is whole nothing is deleted."""
    local.save(1)
    local.store.delete(f"{BASE}/step-00000001/optimizer.pt")
    local.fresh().prune(1)
    assert local.steps() == {1}


@pytest.mark.parametrize("lost", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_one_that_would_start_anew_is_refused(local: Bench, lost: str) -> None:
    """Without optimizer, schedule or random state no manifest makes a checkpoint whole, and none is ever saved."""
    local.save(1, 2)
    base = f"{BASE}/step-00000002"
    manifest = json.loads(local.store.read(f"{base}/manifest.json"))
    del manifest["files"][lost]
    local.store.write(f"{base}/manifest.json", json.dumps(manifest).encode())
    local.store.delete(f"{base}/{lost}")
    local.fresh().prune(1)
    assert local.restored() == 1
    assert any(lost.partition(".")[0] in sentence for sentence in local.said)
    (local.folder / f"source-1/{lost}").unlink()
    with pytest.raises(RunError, match=lost.partition(".")[0]):
        local.checkpoints.save(local.folder / "source-1", 3)


def test_the_last_good_one_is_never_pruned(local: Bench) -> None:
    """However many checkpoints of a run that diverges come after it."""
    local.save(1, 2)
    for step in (3, 4, 5):
        local.checkpoints.save(local.folder / "source-2", step, good=False)
        local.fresh().prune(2)
    assert local.steps() == {2, 4, 5}


STEPS = st.dictionaries(st.integers(1, 5), st.sampled_from(["whole", "changed", "no manifest"]), max_size=5)


@settings(max_examples=25, deadline=None)
@given(state=STEPS, keep=st.integers(0, 4))
def test_prune_never_changes_what_is_restored(
    tmp_path_factory: pytest.TempPathFactory, state: dict[int, str], keep: int
) -> None:
    """Whatever is whole or broken: pruning leaves the same checkpoint to go on from, and at most `keep` whole ones."""
    folder = tmp_path_factory.mktemp("prune")
    bench = Bench(open_store(f"file://{folder}/store", Storage()), folder)
    bench.save(*sorted(state))
    for step, condition in state.items():
        if condition == "changed":
            bench.store.write(f"{BASE}/step-{step:08d}/optimizer.pt", b"broken")
        if condition == "no manifest":
            bench.store.delete(f"{BASE}/step-{step:08d}/manifest.json")
    whole = sorted((step for step, condition in state.items() if condition == "whole"), reverse=True)
    bench.fresh().prune(keep)
    assert bench.restored() == (whole[0] if whole else None)
    assert bench.steps() & set(whole) == set(whole[: max(1, keep)])
