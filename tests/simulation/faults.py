"""What can happen to a request on its way to the API server, and which requests it happens to."""

import asyncio
import itertools
import json
from collections.abc import Callable

from aiohttp import web

from finetune_api import names
from tests.simulation.proxy import WRITES, Asked, Fault, Forward, Matches, ResetError, error_event, status

_JSON = "application/json"


def of(verbs: str, *resources: str) -> Matches:
    """Requests with one of these verbs (separated by blanks) for one of these resources; none: for any."""
    return lambda asked: asked.verb in verbs.split() and (not resources or asked.resource in resources)


def writes(asked: Asked) -> bool:
    """All writes but those of the Lease."""
    return asked.verb in WRITES and asked.resource != "leases"


def answers(code: int, *, retry_after: int | None = None) -> Fault:
    """The request is answered with an error and never reaches the API server."""

    async def fault(_: web.Request, __: Forward) -> web.StreamResponse:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return web.Response(status=code, body=status(code), headers=headers, content_type=_JSON)

    return fault


def breaks_with(code: int) -> Fault:
    """A watch is accepted and ends at once with an ERROR event."""

    async def fault(request: web.Request, _: Forward) -> web.StreamResponse:
        response = await _accepted(request)
        await response.write(error_event(code))
        return response

    return fault


def silent() -> Fault:
    """A watch is accepted, and nothing ever comes."""

    async def fault(request: web.Request, _: Forward) -> web.StreamResponse:
        response = await _accepted(request)
        await asyncio.Event().wait()  # until the client hangs up
        return response

    return fault


def reset() -> Fault:
    """The connection is reset before the API server has seen the request."""

    async def fault(_: web.Request, __: Forward) -> web.StreamResponse:
        raise ResetError

    return fault


def lost_answer() -> Fault:
    """The API server does what it was asked for, and the connection is reset before anybody hears of it."""

    async def fault(_: web.Request, forward: Forward) -> web.StreamResponse:
        await forward()
        raise ResetError

    return fault


def delayed(seconds: float) -> Fault:
    """The request is passed on after a while."""

    async def fault(_: web.Request, forward: Forward) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await forward()

    return fault


async def _accepted(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": _JSON})
    await response.prepare(request)
    return response


def done_but(code: int) -> Fault:
    """The API server does what it was asked for, and an error comes back."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        await forward()
        return await answers(code)(request, forward)

    return fault


def lost_create_and_stale_list() -> tuple[Fault, Fault]:
    """Creates whose answers are lost, and for each of them one list that does not know what was created."""
    unknown: set[str] = set()

    async def lost(request: web.Request, forward: Forward) -> web.StreamResponse:
        labels = (await request.json())["metadata"]["labels"]
        await forward()
        unknown.add(labels[names.LABEL_JOB_UID])
        raise ResetError

    async def stale(request: web.Request, forward: Forward) -> web.StreamResponse:
        selector = request.query.get("labelSelector", "")
        found = next((uid for uid in unknown if uid in selector), None)
        if found is None:
            return await forward()
        unknown.remove(found)
        response = await forward()
        assert isinstance(response, web.Response)
        body = json.loads(response.body or b"")
        return web.json_response({**body, "items": []})

    return lost, stale


def kills(kill: Callable[[], None], *, after: bool) -> Fault:
    """Whoever asks is killed, before the API server hears of it or when it has done it; nobody hears the answer."""

    async def fault(_: web.Request, forward: Forward) -> web.StreamResponse:
        if after:
            await forward()
        kill()
        raise ResetError

    return fault


def nth(number: int, matches: Matches) -> Matches:
    """Only the request of that number, from 1, of those that match."""
    counter = itertools.count(1)
    return lambda asked: matches(asked) and next(counter) == number
