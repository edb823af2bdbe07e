"""Several nodes, one run: the PID 1s hold on to each other, each by one TCP connection to that of the first node.

No node starts its workers before all are there. A node that is asked to stop takes the others along. A node that is
gone ends the others, however it went: collective operations notice a closed connection, but wait for hours where a
machine fell silent. What is said between them is seen by nobody else, and holds no credential.

    hello RUN NODE       a node presents itself
    start                all are there
    beat                 I am here
    stop NODE            that node was asked to stop
    end NODE REASON ...  that node has ended; the rest is its message
"""

import logging
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

from finetune_api.outcome import Outcome, Reason
from finetune_trainer.errors import RunError
from finetune_trainer.supervisor import peers
from finetune_trainer.supervisor.mailbox import STOPS, Hear
from finetune_trainer.supervisor.peers import Peer, listen
from finetune_trainer.supervisor.place import Place

_log = logging.getLogger(__name__)

GATHER_SECONDS = 1800.0
"""Whoever waits for longer gives its GPUs back."""
BEAT_SECONDS = 2.0
_TELL_SECONDS = 30.0
_LOOK_SECONDS = 0.1
_CONNECT_SECONDS = 5.0


class Gang:
    """This node's hold on the others. On the first node it knows all of them; on the others only the first."""

    def __init__(self, place: Place, run: str, ask_to_stop: Callable[[], None]) -> None:
        self._place = place
        self._run = run  # of another attempt nobody is let in
        self._ask_to_stop = ask_to_stop
        self._lock = threading.Lock()
        self._peers: dict[int, Peer] = {}
        self._started = threading.Event()
        self._over = threading.Event()
        self._stopping = False
        self._why = ""
        self.lost = ""
        """Which node was lost, and how."""
        self.published = False
        """The first node has published the result."""

    def gather(self, hear: Hear, timeout: float = GATHER_SECONDS) -> None:
        """Wait until all nodes are there; `hear` waits for the next signal.

        Raises:
            RunError: PeerLost where they do not come, Preempted where this process is asked to stop meanwhile.
        """
        if self._place.nodes == 1:
            return
        self._thread(self._receive if self._place.first else self._join)
        self._thread(self._beat)
        begin = told = time.monotonic()
        while not self._started.is_set():
            if hear(_LOOK_SECONDS) in STOPS:
                self._close()
                raise RunError(Reason.PREEMPTED, "stopped while it waited for the other nodes")
            now = time.monotonic()
            if now - begin > timeout:
                self._close()
                raise RunError(Reason.PEER_LOST, f"not all nodes came within {timeout:g} s: {self._present()}")
            if now - told > _TELL_SECONDS:
                told = now
                _log.info("Node %d waits: %s.", self._place.node, self._present())
        _log.info("Node %d of %d: all nodes are there.", self._place.node, self._place.nodes)

    def say_stop(self) -> None:
        """Take the others along, before the own workers are told: who hears of a stop first is not surprised by it."""
        with self._lock:
            again, self._stopping = self._stopping, True
        if not again:
            self._tell("stop", str(self._place.node))

    def left_alone(self) -> str:
        """Why the workers of this node can do nothing more, or nothing."""
        return "the first node has published the result" if self.published else self.lost

    def judged(self, outcome: Outcome) -> Outcome:
        """What this node's end means for the run: the first node's word is the result, the loss of a node a cause."""
        if self.published and not self._place.first:
            message = f"node {self._place.node} has done its part"
            return Outcome(reason=Reason.TOOK_PART, message=message, step=outcome.step)
        if outcome.reason is Reason.PEER_LOST and self.lost and self.lost not in outcome.message:
            return outcome.model_copy(update={"message": f"{self.lost}; {outcome.message}"})
        return outcome

    def farewell(self, outcome: Outcome) -> None:
        """Say how this node ended, once; those that go on need not guess."""
        if self._place.nodes > 1 and not self._over.is_set():
            self._tell("end", str(self._place.node), outcome.reason.value, outcome.message[:1000])
            self._close()

    # -- the first node ---------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Let the others in until all are there. Who comes later belongs to the next gang, and tries again."""
        with listen(self._place.port) as server:
            server.settimeout(_LOOK_SECONDS)
            while not self._started.is_set() and not self._over.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                self._thread(partial(self._meet, Peer(connection)))

    def _meet(self, peer: Peer) -> None:
        node = self._admit(peer)
        if node is None:
            peer.close()
            return
        with self._lock:
            before = self._peers.get(node)
            self._peers[node] = peer
            if len(self._peers) == self._place.nodes - 1 and not self._started.is_set():
                self._started.set()
                for other in self._peers.values():
                    other.send("start")
        if before:
            before.close()  # that pod was replaced while the gang gathered
        self._listen_to(node, peer)

    def _admit(self, peer: Peer) -> int | None:
        try:
            words = peer.read()
        except OSError:
            return None
        known = words[:2] == ["hello", self._run] and len(words) == 3 and words[2].isdigit()
        return int(words[2]) if known and 0 < int(words[2]) < self._place.nodes and not self._started.is_set() else None

    # -- the others -------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        """Try until the first node lets this one in and starts."""
        while not self._started.is_set() and not self._over.is_set():
            try:
                peer = Peer(socket.create_connection((self._place.host, self._place.port), _CONNECT_SECONDS))
            except OSError as error:
                self._why = f"{self._place.host}:{self._place.port}: {error}"
            else:
                self._why = "the first node waits, too"
                peer.send("hello", self._run, str(self._place.node))
                with self._lock:
                    self._peers[0] = peer
                self._listen_to(0, peer)
            self._over.wait(1.0)

    # -- all --------------------------------------------------------------------------------------------------------

    def _listen_to(self, node: int, peer: Peer) -> None:
        """Hear one node until it goes."""
        how = "closed its connection without a word"
        try:
            while words := peer.read():
                self._hear(node, words)
        except TimeoutError:
            how = f"was not heard of for {peers.LOST_SECONDS:g} s"
        except OSError as error:
            how = f"is gone: {error.strerror}"
        peer.close()
        with self._lock:
            if not self._started.is_set():
                if self._peers.get(node) is peer:
                    del self._peers[node]
            elif not peer.ended and not self._over.is_set():
                self.lost = self.lost or f"node {node} {how}"

    def _hear(self, node: int, words: list[str]) -> None:
        match words:
            case ["start"]:
                self._started.set()
            case ["stop", whose]:
                self._relay(node, words)
                self._stop_with(whose)
            case ["end", whose, reason, *message]:
                self._relay(node, words)
                if whose == str(node):
                    self._peers[node].ended = True
                self._hear_end(whose, reason, " ".join(message))

    def _hear_end(self, whose: str, reason: str, message: str) -> None:
        if reason == Reason.PUBLISHED:
            self.published = True
        elif reason == Reason.PREEMPTED:
            self._stop_with(whose)
        elif reason != Reason.TOOK_PART:
            self.lost = self.lost or f"node {whose} ended with {reason}: {message}"

    def _stop_with(self, whose: str) -> None:
        with self._lock:
            again, self._stopping = self._stopping, True
        if not again:
            _log.info("Node %s was asked to stop, so this one stops with it.", whose)
            self._ask_to_stop()

    def _relay(self, source: int, words: list[str]) -> None:
        """Only the first node has somebody to tell."""
        self._tell(*words, but=source)

    def _tell(self, *words: str, but: int = -1) -> None:
        with self._lock:
            others = [peer for node, peer in self._peers.items() if node != but]
        if self._started.is_set():
            for peer in others:
                peer.send(*words)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with self._lock:
                others = list(self._peers.values())
            for peer in others:
                peer.send("beat")

    def _close(self) -> None:
        self._over.set()
        with self._lock:
            for peer in self._peers.values():
                peer.close()

    def _present(self) -> str:
        if not self._place.first:
            return self._why or "the first node was not asked yet"
        missing = sorted(set(range(1, self._place.nodes)) - self._peers.keys())
        return f"node {', '.join(map(str, missing))} of {self._place.nodes} is not there"

    @staticmethod
    def _thread(work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="gang", daemon=True).start()
