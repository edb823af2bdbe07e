"""The PID 1s of several nodes over workers of a few lines: they begin together, stop together and end together."""

import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_trainer.errors import RunError
from finetune_trainer.supervisor import peers, supervise
from finetune_trainer.supervisor.gang import BEAT_SECONDS, Gang
from finetune_trainer.supervisor.place import Place
from tests.trainer.nodes import Node, free_ports, nodes
from tests.trainer.pid1 import pid1_run_file

SUPERVISED = str(Path(__file__).with_name("supervised.py"))
NODE = 'node = int(os.environ["JOB_COMPLETION_INDEX"])\n'
PATIENT = """
def stop(*_):
    say("heard", time.monotonic())
    time.sleep(2)
    finish("Preempted", f"saved on {node}", 7)
    say("left", time.monotonic())
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
"""
WAIT = 'say("ready"); time.sleep(100)\n'


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_LOST_SECONDS", "6")


def _run(folder: Path) -> RunFile:
    return RunFile.from_json(pid1_run_file(folder).read_bytes())


def _stub(worker: str) -> tuple[str, ...]:
    return SUPERVISED, NODE + worker


def _ends(started: list[Node]) -> list[tuple[int, Reason]]:
    return [(code, outcome.reason) for code, outcome in (node.ended() for node in started)]


def test_stop_of_one_is_a_stop_of_all(tmp_path: Path) -> None:
    """Whoever is told, every worker of every node gets SIGTERM, and all end with 75; there are three, one relays.

    The others are asked at once, not when the first has gone: they have to save together.
    """
    with nodes(_run(tmp_path), tmp_path, 3, _stub(PATIENT + WAIT)) as started:
        for node in started:
            node.wait_for("ready")
        started[2].send(signal.SIGTERM)
        assert _ends(started) == [(75, Reason.PREEMPTED)] * 3
        assert "Node 2 was asked to stop" in started[1].output
        heard, left = ([_time(node, word) for node in started] for word in ("heard", "left"))
        assert max(heard) < min(left)


def _time(node: Node, word: str) -> float:
    return float(node.output.split(f"{word} ")[1].split()[0])


@pytest.mark.long
def test_no_worker_starts_before_all_nodes_are_there(tmp_path: Path) -> None:
    """A gang of two waits for its second node, which may come late; one that is asked to stop meanwhile says so."""
    run = _run(tmp_path).model_copy(update={"nodes": 2, "coordinator": "127.0.0.1", "coordinator_port": free_ports()})
    first = Node(run, 0, tmp_path, _stub("say('began', time.monotonic()); finish('Published', 'done', 1)"))
    early = Node(run, 1, tmp_path / "early", _stub("say('never')"))
    early.send(signal.SIGSTOP)  # before it could say hello
    assert first.process.poll() is None
    early.send(signal.SIGKILL, whole=True)
    assert "began" not in first.output
    late = time.monotonic()
    second = Node(run, 1, tmp_path / "late", _stub("time.sleep(1); finish('TookPart', 'done', 1)"))
    assert [node.ended()[1].reason for node in (first, second)] == [Reason.PUBLISHED, Reason.TOOK_PART]
    assert _time(first, "began") > late
    alone = Node(run, 0, tmp_path / "alone", _stub("say('never')"))
    time.sleep(1)
    alone.send(signal.SIGTERM)
    assert (alone.ended()[0], "never" in alone.output) == (75, False)
    early.process.wait()


@pytest.mark.long
@pytest.mark.parametrize("gone", [0, 1])
def test_a_killed_node_ends_the_others(gone: int, tmp_path: Path) -> None:
    """SIGKILL of a whole node: the others notice a closed connection, and kill workers that wait in vain."""
    with nodes(_run(tmp_path), tmp_path, 2, _stub(WAIT)) as started:
        for node in started:
            node.wait_for("ready")
        started[gone].send(signal.SIGKILL, whole=True)
        code, outcome = started[1 - gone].ended()
        assert (code, outcome.reason) == (82, Reason.PEER_LOST)
        assert outcome.message.startswith(f"node {gone} ")


@pytest.mark.long
def test_a_silent_node_ends_the_others(tmp_path: Path) -> None:
    """A machine that stands still closes no connection; its silence ends the others, within 60 s as it is set."""
    slowest = peers.LOST_SECONDS + supervise._TICK_SECONDS + supervise.ALONE_SECONDS + supervise._STACKS_SECONDS
    assert slowest < 50, "and PID 1 still has to end everything"
    assert peers.LOST_SECONDS > 5 * BEAT_SECONDS
    with nodes(_run(tmp_path), tmp_path, 2, _stub(WAIT)) as started:
        for node in started:
            node.wait_for("ready")
        started[1].send(signal.SIGSTOP, whole=True)
        code, outcome = started[0].ended()
        assert (code, outcome.reason) == (82, Reason.PEER_LOST)
        assert "node 1 was not heard of for 6 s" in outcome.message


def test_a_failure_is_told_to_the_others(tmp_path: Path) -> None:
    """The node that knows the reason says it; the others are lost peers, and name it."""
    worker = f"""
if node:
    finish("NonFiniteLoss", "the loss of step 3 is nan", 3)
    sys.exit(81)
{WAIT}"""
    with nodes(_run(tmp_path), tmp_path, 2, _stub(worker)) as started:
        second, first = started[1].ended(), started[0].ended()
        assert (second[0], second[1].reason) == (81, Reason.NON_FINITE_LOSS)
        assert (first[0], first[1].reason) == (82, Reason.PEER_LOST)
        assert "node 1 ended with NonFiniteLoss: the loss of step 3 is nan" in first[1].message


@pytest.mark.long
def test_the_first_nodes_success_is_everybodys(tmp_path: Path) -> None:
    """Once the result is published, however the others end: it is no failure of the run."""
    worker = f"""
if node == 0:
    finish("Published", "done", 9)
    sys.exit(0)
{WAIT}"""
    with nodes(_run(tmp_path), tmp_path, 2, _stub(worker)) as started:
        assert _ends(started) == [(0, Reason.PUBLISHED), (0, Reason.TOOK_PART)]


@pytest.mark.parametrize("words", [b"hello uid/2 1", b"hello uid/1 2", b"hello uid/1 0", b"GET / HTTP/1.1"])
def test_strangers_are_not_let_in(words: bytes) -> None:
    """Another attempt, a number that no node has, or a word that is none: the gang goes on waiting for its own."""
    port, answers = free_ports(), []
    threading.Thread(target=lambda: answers.append(_knock(port, words)), daemon=True).start()
    with pytest.raises(RunError) as caught:
        Gang(Place(0, 2, port=port), "uid/1", lambda: None).gather(time.sleep, timeout=0.6)
    assert caught.value.reason is Reason.PEER_LOST
    assert "node 1 of 2 is not there" in caught.value.message
    assert answers == [b""]


def _knock(port: int, words: bytes) -> bytes:
    """Say those words as soon as the port is open; what comes back before it is closed."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(words + b"\n")
                return connection.recv(100)
        except ConnectionRefusedError:
            time.sleep(0.02)


def test_a_node_must_know_its_number(tmp_path: Path) -> None:
    """Without JOB_COMPLETION_INDEX, or with one that is too large, nothing is guessed."""
    run = _run(tmp_path).model_copy(update={"nodes": 2, "coordinator": "bot-0.bot"})
    assert Place.of(run, {"JOB_COMPLETION_INDEX": "1"}) == Place(1, 2, "bot-0.bot", 29400)
    assert Place.of(run, {"JOB_COMPLETION_INDEX": "0"}).host == "127.0.0.1"
    for environment in ({}, {"JOB_COMPLETION_INDEX": "2"}, {"JOB_COMPLETION_INDEX": "-1"}):
        with pytest.raises(RunError) as caught:
            Place.of(run, environment)
        assert caught.value.reason is Reason.INVALID_CONFIGURATION
