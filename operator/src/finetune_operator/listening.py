"""Kopf's connections to the API server, with ears: they tell when a watch really brought something.

Kopf swallows bookmarks, and an Event handler hears nothing on a quiet cluster. But each watch brings a bookmark every
minute, so one on which no byte arrives for minutes is dead, whatever its connection and its task look like.

Kopf also ends a watch that it has no right to any more, for good. A namespace may be deleted, and its Roles with it,
while others are watched, so within one such a watch is asked for again and again: it goes on when the right is back.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import kopf

from finetune_api import names

WATCHED = (names.PLURAL, "jobs", "pods")
_REFUSED_SECONDS = 8  # at most; kopf adds up to 21 of its own


@dataclass(frozen=True)
class Listener:
    """Who wants to know. What is called gets a URL's path."""

    heard: Callable[[str], None]
    """Bytes of an answer arrived."""
    refused: Callable[[str], None]
    """There is no right to list or watch this."""
    listed: Callable[[], None] = lambda: None
    """A list begins to arrive, or a watch goes on that was refused: who knows what was missed."""


class _Ears:
    """A response's content; all but `iter_chunked` is the stream's own."""

    def __init__(self, content: aiohttp.StreamReader, heard: Callable[[], None]) -> None:
        self._content, self._heard = content, heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        async for data in self._content.iter_chunked(size):
            self._heard()
            yield data


def session(connection: kopf.ConnectionInfo, agent: str, listener: Listener) -> kopf.AiohttpSession:
    """A session for kopf, which closes it; `connection` says where the API server is and how to log in."""
    refusals: Counter[str] = Counter()

    class Response(aiohttp.ClientResponse):
        async def start(self, connection: Any) -> aiohttp.ClientResponse:
            result = await super().start(connection)
            if self.url.name not in WATCHED:  # kopf asks which kinds there are, too, and only once
                return result
            if self.status == 403 and "/namespaces/" in self.url.path:
                listener.refused(self.url.path)
                refusals[self.url.path] += 1  # the first ones may come from an API server that has just started
                await asyncio.sleep(min(refusals[self.url.path] - 1, _REFUSED_SECONDS))
                raise aiohttp.ClientConnectionError("there is no right to it now; kopf asks again after this error")
            if self.status == 200:
                listed, refused = "watch" not in self.url.query, refusals.pop(self.url.path, 0)
                if listed:
                    listener.heard(self.url.path)  # of a watch only what it brings counts
                if listed or refused:
                    listener.listed()
                self.content = _Ears(self.content, lambda: listener.heard(self.url.path))  # type: ignore[assignment]
            return result

    return kopf.AiohttpSession(
        server=connection.server,
        aiohttp_session=aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=connection.as_ssl_context()),
            headers={**connection.as_http_headers(), "User-Agent": agent},
            response_class=Response,
        ),
    )
