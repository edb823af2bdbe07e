"""One connection between the PID 1s of two nodes: lines of words, and a beat so that silence means something."""

import socket
from contextlib import suppress

LOST_SECONDS = 30.0
"""A node that was not heard of for so long is lost, whether its connection broke or not."""
_LONGEST = 4096


class Peer:
    """The other end."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(LOST_SECONDS)
        self._socket = connection
        self._lines = connection.makefile("rb")
        self.ended = False
        """It has said how it ended: that it goes is no news."""

    def read(self) -> list[str]:
        """Wait for the next words; none where the other end has closed.

        Raises:
            OSError: TimeoutError where it was silent for too long, others for a broken connection.
        """
        try:
            return self._lines.readline(_LONGEST).decode(errors="replace").split()
        except ValueError:  # closed here meanwhile
            return []

    def send(self, *words: str) -> None:
        """Say something; who is gone is noticed by the reader."""
        with suppress(OSError):
            self._socket.sendall((" ".join(" ".join(words).split()) + "\n").encode()[-_LONGEST:])

    def close(self) -> None:
        """End the connection, also for a thread that reads it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def listen(port: int) -> socket.socket:
    """A server on all addresses of this node."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
