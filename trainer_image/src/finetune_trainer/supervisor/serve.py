"""Answers /progress, /metrics and /healthz from a thread of PID 1, so that a busy worker never delays them."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, StateSetMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from finetune_api.names import ActiveReason
from finetune_api.progress import Progress
from finetune_trainer.supervisor.story import latest
from finetune_trainer.workdir import WorkDir

_log = logging.getLogger(__name__)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    work: WorkDir
    registry: CollectorRegistry

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            with suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)  # not HTTPServer's: it looks up this host's name, which takes long without DNS
        self.server_name, self.server_port = "", self.socket.getsockname()[1]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10  # seconds for a client to send its request

    def do_GET(self) -> None:
        """Answer one of three paths."""
        if self.path == "/progress":
            progress = latest(self.server.work) or Progress()
            self._answer(progress.model_dump_json(by_alias=True, exclude_none=True).encode(), "application/json")
        elif self.path == "/metrics":
            self._answer(generate_latest(self.server.registry), CONTENT_TYPE_LATEST)
        elif self.path == "/healthz":
            self._answer(b"ok\n", "text/plain; charset=utf-8")
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "There are /progress, /metrics and /healthz")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the operator asks every few seconds."""


class _Metrics(Collector):
    """The progress document as metrics. No object names: the scraper's target labels say whose they are."""

    def __init__(self, work: WorkDir) -> None:
        self._work = work

    def collect(self) -> Iterator[GaugeMetricFamily | StateSetMetricFamily]:
        """Read the progress file anew."""
        progress = latest(self._work) or Progress()
        gauges = [
            ("step", "Optimizer steps done.", progress.step),
            ("steps", "Optimizer steps of the whole run, 0 until the dataset has been read.", progress.total_steps),
            ("epoch", "Passes over the dataset.", progress.epoch),
            ("loss", "Training loss of the last logged step.", progress.loss),
            ("learning_rate", "Learning rate of the last logged step.", progress.learning_rate),
            ("eta_seconds", "Expected time until the end of training.", progress.eta_seconds),
            ("progress_timestamp_seconds", "Unix time of the last progress.", progress.updated_at),
        ]
        for name, text, value in gauges:
            if value is not None:
                yield GaugeMetricFamily(f"finetune_trainer_{name}", text, value=value)
        states = {phase.value: phase is progress.phase for phase in ActiveReason}
        yield StateSetMetricFamily("finetune_trainer_phase", "What the run is doing now.", value=states)


def start(port: int, work: WorkDir) -> ThreadingHTTPServer | None:
    """Serve on all addresses; return None where the port is 0 or taken, for a run is worth more than its metrics."""
    if port == 0:
        return None
    try:
        server = _Server(("", port), _Handler)
    except OSError as error:
        _log.warning("Port %d cannot be served (%s), so there is no /progress and no /metrics.", port, error.strerror)
        return None
    server.work = work
    server.registry = CollectorRegistry(auto_describe=False)
    server.registry.register(_Metrics(work))
    threading.Thread(target=server.serve_forever, name="serve", daemon=True).start()
    return server
