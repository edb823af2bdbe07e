"""What the operator does with an API server's answers, over real connections: when it comes back, and what it hears."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf
import pytest
from aiohttp import web
from kopf._cogs.clients.api import iter_jsonlines
from kubernetes.aio.client import ApiClient, Configuration

from finetune_operator import cluster, listening
from finetune_operator.cluster import ApiCluster
from finetune_operator.errors import ApiError
from finetune_operator.fence import Fence
from tests.controller.world import KEY

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """An HTTP server on loopback; its URL."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Overloaded:
    """Answers each request with the next thing, the last one for ever, and remembers what it was asked."""

    def __init__(self, *answers: tuple[int, dict[str, str]]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, bytes]] = []

    async def answer(self, request: web.Request) -> web.Response:
        """Answer."""
        self.asked.append((request.method, request.path, await request.read()))
        status, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.json_response({"message": "said so", "reason": "Because"}, status=status, headers=headers)


async def ask(monkeypatch: pytest.MonkeyPatch, server: Overloaded, verb: str = "status") -> tuple[Any, list[float]]:
    """One call of the adapter; returns its error, if any, and the pauses that it made."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(cluster, "asyncio", SimpleNamespace(sleep=pause))
    fence = Fence()
    fence.may_write = lambda: True
    async with served(server.answer) as url:
        adapter = ApiCluster(ApiClient(Configuration(host=url, trace_configs=[fence.trace()])), 5)
        error = None
        try:
            if verb == "status":
                await adapter.patch_status(KEY, {"status": {"attempt": 1}})
            elif verb == "service":
                await adapter.create_service({"kind": "Service", "metadata": {"name": "s", "namespace": "n"}})
            else:
                await adapter.job(KEY)
        except ApiError as caught:
            error = caught
        await adapter.close()
    return error, pauses


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("verb", ["status", "service", "read"])
async def test_it_comes_back_when_it_was_told_to(monkeypatch: pytest.MonkeyPatch, code: int, verb: str) -> None:
    """Not before, hardly later, and with the very same request, whatever its verb: the first one did nothing."""
    server = Overloaded((code, {"Retry-After": "7"}), (code, {"Retry-After": "11"}), (200, {}))
    error, pauses = await ask(monkeypatch, server, verb)
    assert error is None
    assert len(set(server.asked)) == 1
    assert len(server.asked) == 3
    (first, second) = pauses
    assert 7 <= first <= 7 * 1.2
    assert 11 <= second <= 11 * 1.2


async def test_an_hour_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause ends after a minute, give or take."""
    error, pauses = await ask(monkeypatch, Overloaded((429, {"Retry-After": "3600"}), (200, {})))
    assert error is None
    assert 60 <= pauses[0] <= 72


async def test_after_five_times_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """From there on the queue waits, longer each time, and others have their turn."""
    server = Overloaded((429, {"Retry-After": "1"}))
    error, pauses = await ask(monkeypatch, server)
    assert (error.status, error.reason, error.message) == (429, "Because", "said so")
    assert (len(server.asked), len(pauses)) == (5, 4)


@pytest.mark.parametrize(
    ("code", "headers"),
    [(429, {}), (503, {}), (500, {"Retry-After": "1"}), (429, {"Retry-After": "Fri, 27 Nov 2026 23:00:00 GMT"})],
)
async def test_without_its_word_nothing_is_repeated(
    monkeypatch: pytest.MonkeyPatch, code: int, headers: dict[str, str]
) -> None:
    """An error that does not promise that nothing was done is for the queue."""
    server = Overloaded((code, headers))
    error, pauses = await ask(monkeypatch, server)
    assert error.status == code
    assert (len(server.asked), pauses) == (1, [])


@asynccontextmanager
async def heard_on(handler: Handler) -> AsyncIterator[tuple[Any, list[str], list[str]]]:
    """Kopf's session before such a server, the paths it has heard of, and the user agents that the server saw."""
    heard: list[str] = []
    agents: list[str] = []

    async def noted(request: web.Request) -> web.StreamResponse:
        agents.append(request.headers["User-Agent"] + "/" + request.headers.get("Authorization", ""))
        return await handler(request)

    async with served(noted) as url:
        listener = listening.Listener(heard.append, lambda path: heard.append(f"refused {path}"))
        session = listening.session(kopf.ConnectionInfo(server=url, token="t"), "agent", listener)
        assert session.server == url
        async with session.aiohttp_session as client:
            yield SimpleNamespace(get=lambda path: client.get(url + path)), heard, agents


async def test_a_watch_is_heard_when_it_brings_something() -> None:
    """Kopf reads every line of it; that it was opened says nothing, each line does."""
    say: asyncio.Queue[str | None] = asyncio.Queue()

    async def watch(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while (line := await say.get()) is not None:
            await answer.write(line.encode())
        return answer

    async with heard_on(watch) as (client, heard, agents), client.get("/api/v1/pods?watch=true") as answer:
        assert heard == []
        lines = aiter(iter_jsonlines(answer.content))
        for count, event in enumerate(("ADDED", "BOOKMARK", "MODIFIED"), start=1):
            say.put_nowait(json.dumps({"type": event}) + "\n")
            assert json.loads(await anext(lines)) == {"type": event}
            assert heard == ["/api/v1/pods"] * count
        say.put_nowait(None)
        assert [line async for line in lines] == []
        assert len(heard) == 3
        assert agents == ["agent/Bearer t"]


@pytest.mark.parametrize("path", ["/api", "/apis", "/api/v1", "/apis/batch/v1", "/apis/finetune.dev/v1alpha1"])
async def test_what_is_no_watch_is_not_heard(path: str) -> None:
    """Kopf asks once which kinds there are. Taken for a watch, it would be a silent one three minutes later."""

    async def kinds(_: web.Request) -> web.StreamResponse:
        return web.json_response({"resources": []})

    async with heard_on(kinds) as (client, heard, _), client.get(path) as answer:
        assert (await answer.json(), heard) == ({"resources": []}, [])


async def test_a_list_is_heard_at_once() -> None:
    """From there on its watch has its time."""

    async def listed(_: web.Request) -> web.StreamResponse:
        return web.json_response({"items": []})

    async with heard_on(listed) as (client, heard, _), client.get("/api/v1/pods?limit=500") as answer:
        assert heard[:1] == ["/api/v1/pods"]
        assert await answer.json() == {"items": []}


async def test_what_is_forbidden_is_asked_for_again() -> None:
    """Kopf ends a watch for good that it has no right to. As an error of the connection, it is one to try again.

    Of the whole cluster it is an error like others (below): it ends the process.
    """

    async def forbidden(_: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "no"}, status=403)

    async with heard_on(forbidden) as (client, heard, _):
        for query in ("limit=500", "watch=true"):
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.get(f"/api/v1/namespaces/a/pods?{query}")
        assert heard == ["refused /api/v1/namespaces/a/pods"] * 2


async def test_a_watch_that_goes_on_after_a_refusal_wants_a_survey() -> None:
    """It brings what happens from now on; what was forgotten meanwhile it does not bring."""
    codes = iter([200, 200, 403, 200, 200])

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"items": []}, status=next(codes))

    listed: list[bool] = []
    async with served(answer) as url:
        listener = listening.Listener(lambda _: None, lambda _: None, lambda: listed.append(True))
        session = listening.session(kopf.ConnectionInfo(server=url, token="t"), "agent", listener)
        async with session.aiohttp_session as client:
            path = url + "/api/v1/namespaces/a/pods"
            async with client.get(path):
                assert len(listed) == 1
            async with client.get(f"{path}?watch=true"):
                assert len(listed) == 1
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.get(f"{path}?watch=true")
            for _ in range(2):
                async with client.get(f"{path}?watch=true"):
                    assert len(listed) == 2


@pytest.mark.parametrize("code", [403, 410, 429, 500])
async def test_an_error_is_not_heard(code: int) -> None:
    """Neither of a list nor of a watch, whatever its body."""

    async def broken(_: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "no"}, status=code)

    async with heard_on(broken) as (client, heard, _):
        for path in ("/api/v1/pods?limit=500", "/api/v1/pods?watch=true"):
            async with client.get(path) as answer:
                assert [line async for line in iter_jsonlines(answer.content)]
        assert heard == []
