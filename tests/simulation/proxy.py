"""An HTTP proxy on loopback before a control plane's API server, which fails as networks and API servers do.

    with FaultyApi(plane) as proxy:
        with proxy.fault(POST_JOBS, lost_answer(), times=3):
            ...

It runs in a thread of the test's own process and logs in to the API server as the administrator. Without a fault it
changes nothing: bodies, codes, headers and watch events pass as they come.
"""

import asyncio
import contextlib
import json
import random
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from localcluster.simulation import ControlPlane

_PATH = re.compile(
    r"^/apis?/(?:[^/]+/)?v[^/]+/(?:namespaces/(?P<namespace>[^/]+)/)?(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$"
)
_HOP = frozenset(("connection", "host", "keep-alive", "transfer-encoding", "content-length", "upgrade"))
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Asked:
    """What a request asks for: a verb of HTTP, or LIST or WATCH, and a resource such as `finetunejobs/status`."""

    verb: str
    resource: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


class ResetError(Exception):
    """The client's connection is to be reset."""


Forward = Callable[[], Awaitable[web.StreamResponse]]
Fault = Callable[[web.Request, Forward], Awaitable[web.StreamResponse]]
"""What happens to a request instead of passing it on; it may still do that."""
Matches = Callable[[Asked], bool]
REASONS = {
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def status(code: int) -> bytes:
    """A Status object, as the API server answers errors."""
    made = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
    return json.dumps({**made, "reason": REASONS[code], "message": f"the proxy says {code}"}).encode()


def error_event(code: int) -> bytes:
    """An ERROR event of a watch."""
    return b'{"type":"ERROR","object":' + status(code) + b"}\n"


@dataclass
class _Rule:
    matches: Matches
    fault: Fault
    times: float
    rate: float
    hits: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class _Watch:
    """One that is being passed on."""

    asked: Asked
    response: web.StreamResponse
    request: web.Request
    mute: bool = False


class FaultyApi:
    """The proxy. `seed` decides which requests a fault with a rate below 1 hits."""

    def __init__(self, plane: ControlPlane, seed: int = 0) -> None:
        self._plane, self._random = plane, random.Random(seed)
        self._rules: list[_Rule] = []
        self._watches: set[_Watch] = set()
        self.passed: Counter[str] = Counter()
        """Requests seen, by verb and resource."""
        self.port = 0
        self._started, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    # -- in the test's thread -------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads here."""
        where = {"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "proxy", "clusters": [where]}
        path.write_text(json.dumps({**config, "contexts": [context], "users": [{"name": "nobody", "user": {}}]}))
        return path

    @contextlib.contextmanager
    def fault(
        self, matches: Matches, fault: Fault, *, times: float = float("inf"), rate: float = 1.0
    ) -> Iterator[Counter[str]]:
        """Treat requests badly within the block; yields how many of each kind were so far."""
        rule = _Rule(matches, fault, times, rate)
        self._rules.append(rule)
        try:
            yield rule.hits
        finally:
            self._rules.remove(rule)

    def mute_watches(self) -> int:
        """Let nothing more pass on the watches that are open now; their connections stay. Returns how many."""
        return self._in_loop(self._mute)

    def break_watches(self, code: int | None = None) -> int:
        """End the watches that are open now with an ERROR event of that code, or by a reset. Returns how many."""
        return self._in_loop(lambda: self._break(code))

    def watching(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    def _in_loop(self, do: Callable[[], Awaitable[int]]) -> int:
        async def call() -> int:
            return await do()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    # -- in the proxy's thread ------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        pki = self._plane.paths.pki
        tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        connector = aiohttp.TCPConnector(limit=0, ssl=tls)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            self._session = session
            runner = web.AppRunner(_application(self._handle), access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._started.set()
            await self._stop.wait()
            await self._break(None)
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = _asked(request)
        self.passed[str(asked)] += 1
        body = await request.read()

        async def forward() -> web.StreamResponse:
            return await self._forward(request, asked, body)

        try:
            for rule in self._rules:
                if rule.times > 0 and rule.matches(asked) and self._random.random() < rule.rate:
                    rule.times -= 1
                    rule.hits[str(asked)] += 1
                    return await rule.fault(request, forward)
            return await forward()
        except (ResetError, aiohttp.ClientError, ConnectionError):
            return _reset(request)

    async def _forward(self, request: web.Request, asked: Asked, body: bytes) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        async with self._session.request(
            request.method, self._plane.url + request.path_qs, data=body or None, headers=headers
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            if asked.verb == "WATCH" and answer.status == 200:
                return await self._pass_on(request, asked, answer, kept)
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    async def _pass_on(
        self, request: web.Request, asked: Asked, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        watch = _Watch(asked, response, request)
        self._watches.add(watch)
        try:
            async for event in _lines(answer.content):
                if not watch.mute:
                    await response.write(event)
            if watch.mute:
                await asyncio.Event().wait()  # nobody hears its end either
        finally:
            self._watches.discard(watch)
        return response

    async def _mute(self) -> int:
        for watch in self._watches:
            watch.mute = True
        return len(self._watches)

    async def _break(self, code: int | None) -> int:
        watches = list(self._watches)
        for watch in watches:
            watch.mute = True
            if code is None:
                _reset(watch.request)
            else:
                with contextlib.suppress(ConnectionError):
                    await watch.response.write(error_event(code))
                    await watch.response.write_eof()
        return len(watches)


def _application(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    application = web.Application(client_max_size=64 << 20)
    application.router.add_route("*", "/{path:.*}", handle)
    return application


def _asked(request: web.Request) -> Asked:
    found = _PATH.match(request.path)
    if not found:
        return Asked(request.method, request.path)
    resource = found["resource"] + (f"/{found['sub']}" if found["sub"] else "")
    verb = request.method
    if verb == "GET" and not found["name"]:
        verb = "WATCH" if request.query.get("watch") == "true" else "LIST"
    return Asked(verb, resource, found["name"] or "")


def _reset(request: web.Request) -> web.StreamResponse:
    """Close the client's connection with RST; what is returned goes nowhere."""
    transport = request.transport
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=502)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for data in content.iter_any():
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line + b"\n"
