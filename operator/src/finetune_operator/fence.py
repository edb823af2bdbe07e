"""Lets no write leave this process unless it may write: the last look, right before the bytes go to the socket.

Between the decision to write and the write lie awaits of any length: for a connection, for the body's task, for the
process itself, which may have been stopped. So the look is taken by aiohttp's own hook before it hands a request's body
to the transport. Headers wait in a buffer until then, and no write comes without a body.
"""

from collections.abc import Callable
from types import SimpleNamespace

import aiohttp

_LEASES = "/apis/coordination.k8s.io/"
_READS = ("GET", "HEAD", "OPTIONS")


class FencedError(Exception):
    """This replica does not lead, or cannot be sure that it still does: the request was not sent."""


class Fence:
    """Shut until somebody says when a write may pass."""

    def __init__(self) -> None:
        self.may_write: Callable[[], bool] = lambda: False

    def trace(self) -> aiohttp.TraceConfig:
        """The hook. Writes of the Lease pass: their resourceVersion guards them, and without them nobody could lead."""
        config = aiohttp.TraceConfig()
        config.on_request_chunk_sent.append(self._look)
        return config

    async def _look(
        self, _: aiohttp.ClientSession, __: SimpleNamespace, sent: aiohttp.TraceRequestChunkSentParams
    ) -> None:
        if sent.method in _READS or sent.url.path.startswith(_LEASES) or self.may_write():
            return
        raise FencedError(f"{sent.method} {sent.url.path} was not sent: this replica does not hold the Lease")
