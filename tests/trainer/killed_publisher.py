"""Publishes in forked processes that kill themselves: a helper of the test_publish_ tests, run as a program.

Reads lines `ACTION POINT URI FOLDER`, forks for each, and answers with the child's exit code. A child gets SIGKILL
before its operation number POINT on the store, or after POINT microseconds where ACTION is `timed`, or before its
change number POINT of the file system where ACTION is `put` or `take`.
"""

import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path

from finetune_api.v1alpha1 import Storage
from finetune_trainer.publish import CheckpointStore, Outbox, publish
from finetune_trainer.storage import Store, open_store


class Mortal:
    """A store that kills its process before operation number `point`."""

    def __init__(self, store: Store, point: int) -> None:
        self._store = store
        self._left = point
        self.uri = store.uri

    def __getattr__(self, name: str) -> object:
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return getattr(self._store, name)


CHANGES = ("os.link", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


def _die_at_change(point: int) -> None:
    """Kill this process before it changes the file system for the (point + 1)th time."""
    left = [point]

    def hear(event: str, _: object) -> None:
        if event in CHANGES:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


def _exchange(action: str, point: int, outbox: Outbox, folder: Path) -> None:
    _die_at_change(point)
    if action == "put":
        outbox.put(folder, 3)
    else:
        while parcel := outbox.take():
            outbox.done(parcel)


@functools.cache
def _store(uri: str) -> Store:
    """Make the slow part, boto3's client, once; it connects in the child."""
    store = open_store(uri, Storage(endpoint=os.environ["TEST_ENDPOINT"]))
    getattr(store, "_client", None)
    return store


def _act(action: str, point: int, store: Store, folder: Path) -> None:
    if action in ("put", "take"):
        _exchange(action, point, Outbox(Path(store.uri.removeprefix("file://"))), folder)
        return
    if action == "timed":
        store.list()  # connect first, so that the time counts from the first upload
        threading.Thread(target=lambda: (time.sleep(point / 1e6), os.kill(os.getpid(), signal.SIGKILL))).start()
        publish(folder, store, {}, lambda _: None)
        time.sleep(60)
    mortal = Mortal(store, point)
    if action == "publish":
        publish(folder, mortal, {"seed": 1}, lambda _: None)  # type: ignore[arg-type]
    if action == "checkpoint":
        checkpoints = CheckpointStore(mortal, "uid", lambda _: None)  # type: ignore[arg-type]
        checkpoints.save(folder, 3)
        checkpoints.prune(1)


for line in sys.stdin:
    words = line.split()
    store = _store(words[2])
    pid = os.fork()
    if pid == 0:
        _act(words[0], int(words[1]), store, Path(words[3]))
        os._exit(0)
    sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
    sys.stdout.flush()
