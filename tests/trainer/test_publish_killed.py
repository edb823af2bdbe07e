"""SIGKILL at any point of publishing: no manifest, or one whose every file is there and right."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.v1alpha1 import Storage
from finetune_trainer.publish import CheckpointStore, Outbox, publish
from finetune_trainer.storage import ObjectMissingError, Store, open_store
from tests.trainer.checkpoint import check_checkpoint, make_checkpoint

pytestmark = pytest.mark.long

KILLED = -9


class Publisher:
    """The helper program."""

    def __init__(self, endpoint: str) -> None:
        program = [sys.executable, str(Path(__file__).with_name("killed_publisher.py"))]
        environment = {**os.environ, "TEST_ENDPOINT": endpoint}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, env=environment)

    def act(self, action: str, point: int, uri: str, folder: Path) -> int:
        """Return the exit code of one forked publisher."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{action} {point} {uri} {folder}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """Let it end."""
        self._process.communicate(timeout=10)


@pytest.fixture
def publisher(s3_storage: Storage) -> Iterator[Publisher]:
    """The helper, with the credentials of the S3 server in its environment."""
    helper = Publisher(str(s3_storage.endpoint))
    yield helper
    helper.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Something to publish."""
    (tmp_path / "adapter/sub").mkdir(parents=True)
    for name in ("adapter_model.safetensors", "adapter_config.json", "sub/deep.json"):
        (tmp_path / "adapter" / name).write_bytes(os.urandom(1000))
    return tmp_path / "adapter"


def _is_whole(store: Store) -> bool:
    """Tell whether there is a manifest; every file must be right then."""
    try:
        files = json.loads(store.read("manifest.json"))["files"]
    except ObjectMissingError:
        return False
    for path, facts in files.items():
        content = store.read(path)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (facts["size"], facts["sha256"]), path
    assert set(files) == {"adapter_model.safetensors", "adapter_config.json", "sub/deep.json"}
    return True


def _empty(store: Store) -> None:
    for entry in store.list():
        store.delete(entry.path)


@pytest.mark.parametrize("over_an_old_one", [False, True])
def test_killed_before_every_operation(
    publisher: Publisher, folder: Path, s3_uri: str, s3_storage: Storage, over_an_old_one: bool
) -> None:
    """Killed before its nth operation, for every n, on an empty prefix and over an older adapter."""
    whole = []
    store = open_store(s3_uri, s3_storage)
    for point in range(100):
        _empty(store)
        if over_an_old_one:
            old = folder.parent / "old"
            for path in ("adapter_model.safetensors", "adapter_config.json", "sub/deep.json"):
                (old / path).parent.mkdir(parents=True, exist_ok=True)
                (old / path).write_bytes(b"old")
            publish(old, store, {}, lambda _: None)
        code = publisher.act("publish", point, store.uri, folder)
        whole.append(_is_whole(store))
        if code == 0:
            break
        assert code == KILLED
    # exists, (delete,) three times upload and read back, write; the last read back is of a manifest that is right
    operations = 9 if over_an_old_one else 8
    before = 2 if over_an_old_one else 0  # the older adapter stays whole until its manifest is deleted
    assert whole == [True] * before + [False] * (operations - before) + [True] * 2


def test_killed_at_any_moment(publisher: Publisher, folder: Path, s3_uri: str, s3_storage: Storage) -> None:
    """Killed by the clock, in the middle of a transfer as well."""
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(8_000_000))
    store = open_store(s3_uri, s3_storage)
    for point in range(0, 160_000, 20_000):
        _empty(store)
        assert publisher.act("timed", point, store.uri, folder) == KILLED
        _is_whole(store)


def test_killed_while_saving_and_pruning(publisher: Publisher, tmp_path: Path) -> None:
    """Killed before every operation of saving a checkpoint and pruning: the newest whole one is restored right."""
    restored = []
    old, new = (make_checkpoint(tmp_path / f"checkpoint-{step}", step) for step in (2, 3))
    for point in range(200):
        store = open_store(f"file://{tmp_path}/{point}", Storage())
        checkpoints = CheckpointStore(store, "uid", lambda _: None)
        checkpoints.save(old, 1)
        checkpoints.save(old, 2)
        code = publisher.act("checkpoint", point, store.uri, new)
        newest = CheckpointStore(store, "uid", lambda _: None).restore_newest(tmp_path / f"restored-{point}")
        assert newest is not None
        assert newest.name == f"checkpoint-{check_checkpoint(newest)}"
        restored.append(newest.name)
        for folder_of_step in (tmp_path / f"{point}/.finetune/uid/checkpoints").glob("*"):
            if (folder_of_step / "manifest.json").exists():
                check_checkpoint(folder_of_step)
        if code == 0:
            break
        assert code == KILLED
    written = restored.index("checkpoint-3")
    assert set(restored[:written]) == {"checkpoint-2"}
    assert set(restored[written:]) == {"checkpoint-3"}
    assert len(restored) > written + 8  # pruning took its time, too


@pytest.mark.parametrize("action", ["put", "take"])
def test_killed_between_worker_and_pid_1(publisher: Publisher, tmp_path: Path, action: str) -> None:
    """Killed before every change that handing over a checkpoint makes: what is taken next is whole, old or new."""
    taken = []
    old, new = (make_checkpoint(tmp_path / f"checkpoint-{step}", step) for step in (2, 3))
    for point in range(100):
        outbox = Outbox(tmp_path / str(point))
        outbox.put(old, 2)
        code = publisher.act(action, point, f"file://{tmp_path}/{point}", new)
        parcel = outbox.take()
        taken.append(parcel.step if parcel else None)
        if parcel:
            assert check_checkpoint(parcel.folder) == parcel.step
            outbox.done(parcel)
        assert outbox.take() is None
        if code == 0:
            break
        assert code == KILLED
    expected = {"put": [2, 3], "take": [2, None]}[action]
    before = taken.index(expected[1])
    assert taken == [2] * before + [expected[1]] * (len(taken) - before)
    assert len(taken) > 6
