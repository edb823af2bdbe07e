"""Serves /metrics, /healthz and /readyz from a thread of its own: it must answer when the event loop does not."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_logger = logging.getLogger(__name__)
_STALE_SECONDS = 30.0
_SILENT_SECONDS = 180.0  # a watch brings a bookmark each minute; kopf connects anew after 70 s without a byte
_GAP_SECONDS = 90.0
_BEAT_SECONDS = 1.0
Answer = tuple[int, str, bytes]


class Health:
    """What the probes ask for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beat = clock()
        self._watches: dict[str, float] = {}
        self._answers = (clock(), clock())  # the API server's: since when without a gap, and the last one
        self.ready = False
        """Set once the operator watches."""

    def beat(self) -> None:
        """The event loop turns."""
        self._beat = self._clock()

    def answered(self) -> None:
        """The API server gave what it was asked for."""
        now, (since, last) = self._clock(), self._answers
        self._answers = (now if now - last > _GAP_SECONDS else since, now)

    def heard(self, watch: str) -> None:
        """Bytes of that watch arrived."""
        self._watches[watch] = self._clock()
        self.answered()

    def refused(self, watch: str) -> bool:
        """There is no right to that watch; returns whether it was listened to. A restart would mend nothing."""
        return self._watches.pop(watch, None) is not None

    def dead(self) -> list[str]:
        """Watches that brought nothing for long although the API server answered all the time.

        While it does not answer anybody, a restart would mend nothing; after that, a watch has its time again.
        """
        now, (since, last) = self._clock(), self._answers
        if now - last > _GAP_SECONDS:
            return []
        return [watch for watch, time in self._watches.copy().items() if now - max(time, since) > _SILENT_SECONDS]

    async def keep_beating(self) -> None:
        """Beat as long as the event loop does."""
        while True:
            self.beat()
            await asyncio.sleep(_BEAT_SECONDS)

    def answer(self, path: str, metrics: Callable[[], bytes]) -> Answer:
        """Status, content type and body for a path; `?verbose` tells what is listened to, as other probes do."""
        path, _, query = path.partition("?")
        silent = self._clock() - self._beat
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", metrics()
        if path == "/healthz" and silent > _STALE_SECONDS:
            return 503, "text/plain", f"the event loop has not turned for {silent:.0f} s\n".encode()
        if path == "/healthz" and (dead := self.dead()):
            return 503, "text/plain", f"no byte for {_SILENT_SECONDS:.0f} s on {', '.join(dead)}\n".encode()
        if path == "/readyz" and not self.ready:
            return 503, "text/plain", b"not watching yet\n"
        if path in ("/healthz", "/readyz"):
            return 200, "text/plain", self._told() if query == "verbose" else b"ok\n"
        return 404, "text/plain", b"/metrics, /healthz and /readyz are here\n"

    def _told(self) -> bytes:
        now, watches = self._clock(), sorted(self._watches.copy().items())
        return "".join(f"[+]watch {watch} heard {now - time:.0f} s ago\n" for watch, time in watches).encode() + b"ok\n"


class Server:
    """The thread; `port` is the one it got."""

    def __init__(self, host: str, port: int, health: Health, metrics: Callable[[], bytes]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = health.answer(self.path, metrics)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """A probe each few seconds is no news."""

        class Http(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                error = sys.exception()
                left = isinstance(error, ConnectionError)  # a probe that would not wait
                level = logging.DEBUG if left else logging.ERROR
                _logger.log(level, "a request was not answered: %s", error, exc_info=error)

        self._server = Http((host, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
