"""A debugger: the run waits for one on loopback, says so, and is not taken for hung."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from finetune_api.outcome import Reason
from tests.trainer.pid1 import Start

WAITS = """
import sys
from finetune_api.v1alpha1 import Debugpy
from finetune_trainer.debugger import listen
from finetune_trainer.training.stop import StopSwitch, Stopped
stop = StopSwitch()
stop.install()
try:
    listen(Debugpy(port=int(sys.argv[1]), wait=sys.argv[2] == "wait"), lambda sentence: print(sentence, flush=True))
except Stopped:
    print("stopped", flush=True)
"""
STANDS_STILL = """
sys.path.insert(0, {root!r})
from finetune_api.progress import Progress
from finetune_trainer.workdir import WorkDir
for step in range(3):
    WorkDir(work).write_progress(Progress(phase="Training", step=step, total_steps=9))
    time.sleep(1.1)
time.sleep(5)
finish("InvalidDataset", "awake again", 3)
sys.exit(65)
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def worker(port: int, wait: str) -> Iterator[Any]:
    """A process that starts the server, as the worker does; it has ended by itself at the end."""
    command = [sys.executable, "-Xfrozen_modules=off", "-c", WAITS, str(port), wait]
    environment = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
            assert process.wait(30) == 0
        finally:
            process.kill()


def attach(port: int) -> socket.socket:
    """Attach as an editor would: https://microsoft.github.io/debug-adapter-protocol/specification."""
    deadline = time.monotonic() + 30
    while True:
        try:
            client = socket.create_connection(("127.0.0.1", port), timeout=30)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    heard = client.makefile("rb")
    say(client, 1, "initialize", {"adapterID": "test"})
    hear(heard, "command", "initialize")
    say(client, 2, "attach", {"justMyCode": False})
    hear(heard, "event", "initialized")
    say(client, 3, "configurationDone", {})
    hear(heard, "command", "attach")
    heard.close()
    return client


def say(client: socket.socket, number: int, command: str, arguments: dict[str, Any]) -> None:
    """Send a request."""
    body = json.dumps({"seq": number, "type": "request", "command": command, "arguments": arguments})
    client.sendall(f"Content-Length: {len(body)}\r\n\r\n{body}".encode())


def hear(stream: IO[bytes], key: str, value: str) -> None:
    """Read messages up to the one that has this value."""
    message: dict[str, Any] = {}
    while message.get(key) != value:
        length = int(stream.readline().split(b":")[1])
        stream.readline()
        message = json.loads(stream.read(length))


def test_it_waits_for_a_client() -> None:
    """And goes on once one is there."""
    port = free_port()
    with worker(port, "wait") as process:
        assert process.stdout.readline() == f"waiting for a debugger on port {port} of this machine\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        with attach(port):
            assert process.stdout.readline() == "a debugger is attached\n"


def test_a_signal_ends_the_waiting() -> None:
    """A pod that nobody attaches to can be deleted like any other."""
    with worker(free_port(), "wait") as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopped\n"


@pytest.mark.long
def test_without_waiting_it_goes_on() -> None:
    """One may attach later."""
    with worker(free_port(), "later") as process:
        assert process.stdout.readline().startswith("a debugger may attach")


@pytest.mark.long
def test_at_a_breakpoint_it_is_not_hung(start: Start) -> None:
    """Nothing moves for far longer than the limit, and the run ends by itself."""
    script = STANDS_STILL.format(root=str(Path(__file__).parents[2]))
    training = {"hangTimeoutSeconds": 2}
    code, outcome, _ = start(script, training=training, debug={"debugpy": {}}).ended()

    assert (code, outcome.reason) == (65, Reason.INVALID_DATASET)
