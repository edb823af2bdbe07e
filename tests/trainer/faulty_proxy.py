"""An HTTP proxy on loopback before one server, which fails as proxies, load balancers and networks do.

    with FaultyProxy(server.endpoint) as proxy:
        proxy.fail("reset", method="GET", times=1)

The host header is passed on as it is: it is part of the signature.
"""

import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import TracebackType
from urllib.parse import urlsplit

FAULTS = ("400", "500", "503", "refuse", "reset", "truncate", "stall", "etag", "flip", "lose")
"""An answer of 400 (the body was changed on its way), 500 or 503; the connection closed, reset amid the body, or closed
amid it; no answer for some time; a wrong ETag; one wrong byte in the body; an upload acknowledged and thrown away."""
STALL_SECONDS = 3.0
_LARGEST = 64 << 20
_ERRORS = {
    "400": ("Bad Request", "BadDigest"),
    "500": ("Internal Server Error", "InternalError"),
    "503": ("Service Unavailable", "SlowDown"),
}


@dataclass
class _Plan:
    fault: str
    method: str
    containing: str
    times: float


@dataclass
class _Request:
    method: str
    path: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


class FaultyProxy:
    """The proxy; without a plan it changes nothing."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._plans: list[_Plan] = []
        self._lock = threading.Lock()
        self.failed = 0
        """How many requests were treated badly."""
        self._server = ThreadingTCPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, fault: str, *, method: str = "", containing: str = "", times: float = float("inf")) -> None:
        """Treat the next `times` requests with this method and this in their path badly; earlier plans are off."""
        assert fault in FAULTS
        with self._lock:
            self._plans = [_Plan(fault, method, containing, times)]

    def heal(self) -> None:
        """Be a good proxy from now on."""
        with self._lock:
            self._plans = []

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "FaultyProxy":
        """Serve until the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.close()

    def fault_of(self, request: _Request) -> str:
        """What shall happen to a request; counted."""
        with self._lock:
            for plan in self._plans:
                if plan.times > 0 and plan.method in ("", request.method) and plan.containing in request.path:
                    plan.times -= 1
                    self.failed += 1
                    return plan.fault
        return ""

    def forward(self, request: _Request) -> tuple[int, str, list[tuple[str, str]], bytes]:
        """Ask the server."""
        connection = HTTPConnection(str(self._upstream.hostname), self._upstream.port, timeout=60)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(request.body or None)
            answer: HTTPResponse = connection.getresponse()
            return answer.status, answer.reason, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _handler(self) -> type[StreamRequestHandler]:
        proxy = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                _serve(proxy, self)

        return Handler


def _serve(proxy: FaultyProxy, handler: StreamRequestHandler) -> None:
    try:
        request = _read(handler)
        if request:
            _answer(proxy, handler, request, proxy.fault_of(request))
    except OSError:
        pass  # the client is gone


def _read(handler: StreamRequestHandler) -> _Request | None:
    first = handler.rfile.readline().decode("latin1").split()
    if len(first) != 3:
        return None
    request = _Request(first[0], first[1])
    while line := handler.rfile.readline().decode("latin1").strip():
        name, _, value = line.partition(":")
        request.headers.append((name, value.strip()))
    known = {name.lower(): value for name, value in request.headers}
    if known.get("expect", "").lower() == "100-continue":
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    size = int(known.get("content-length", 0))
    assert size <= _LARGEST
    request.body = handler.rfile.read(size)
    return request


def _answer(proxy: FaultyProxy, handler: StreamRequestHandler, request: _Request, fault: str) -> None:
    if fault == "refuse":
        return
    if fault in _ERRORS:
        reason, code = _ERRORS[fault]
        body = f"<Error><Code>{code}</Code><Message>Please try again.</Message></Error>".encode()
        _send(
            handler,
            int(fault),
            reason,
            [("Content-Type", "application/xml")],
            body if request.method != "HEAD" else b"",
        )
        return
    if fault == "lose" and request.method == "PUT":
        _send(handler, 200, "OK", [("ETag", '"00000000000000000000000000000000"')], b"")
        return
    if fault in ("reset", "truncate") and request.method == "PUT":  # the server never gets it
        handler.wfile.write(b"HTTP/1.1 20" if fault == "truncate" else b"")
        _end(handler, fault)
        return
    if fault == "stall":
        time.sleep(STALL_SECONDS)
    if fault == "flip" and request.method == "PUT":
        request.body = _flipped(request.body)
    status, reason, headers, body = proxy.forward(request)
    if fault == "etag":
        headers = [(n, '"11111111111111111111111111111111"' if n.lower() == "etag" else v) for n, v in headers]
    _send(
        handler,
        status,
        reason,
        headers,
        _flipped(body) if fault == "flip" else body,
        cut=fault in ("reset", "truncate"),
    )
    _end(handler, fault)


def _end(handler: StreamRequestHandler, fault: str) -> None:
    if fault == "reset":
        handler.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends RST


def _flipped(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1]) if body else body


def _send(
    handler: StreamRequestHandler,
    status: int,
    reason: str,
    headers: list[tuple[str, str]],
    body: bytes,
    *,
    cut: bool = False,
) -> None:
    kept = [(n, v) for n, v in headers if n.lower() not in ("connection", "transfer-encoding", "content-length")]
    length = next((v for n, v in headers if n.lower() == "content-length"), str(len(body)))
    lines = [
        f"HTTP/1.1 {status} {reason}",
        *[f"{n}: {v}" for n, v in kept],
        f"Content-Length: {length}",
        "Connection: close",
    ]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin1")
    whole = head + body
    handler.wfile.write(whole[: len(whole) - max(1, len(body) // 2)] if cut else whole)
    handler.wfile.flush()
