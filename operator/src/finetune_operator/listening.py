"""Kopf's connections to the API server, with ears: they tell when a watch really brought something.

Kopf swallows bookmarks, and an Event handler hears nothing on a quiet cluster. But each watch brings a bookmark every
minute, so one on which no byte arrives for minutes is dead, whatever its connection and its task look like.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import kopf

from finetune_api import names

WATCHED = (names.PLURAL, "jobs", "pods")
Heard = Callable[[str], None]


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


def session(
    connection: kopf.ConnectionInfo, agent: str, heard: Heard, listed: Callable[[], None] = lambda: None
) -> kopf.AiohttpSession:
    """A session for kopf, which closes it.

    Args:
        connection: Where the API server is and how to log in.
        agent: The user agent.
        heard: Called with a URL's path whenever bytes of an answer arrive.
        listed: Called when a list begins to arrive.
    """

    class Response(aiohttp.ClientResponse):
        async def start(self, connection: Any) -> aiohttp.ClientResponse:
            result = await super().start(connection)
            if self.status == 200 and self.url.name in WATCHED:  # kopf asks which kinds there are, too, and only once
                if "watch" not in self.url.query:
                    heard(self.url.path)  # a list; of a watch only what it brings counts
                    listed()
                self.content = _Ears(self.content, lambda: heard(self.url.path))  # type: ignore[assignment]
            return result

    return kopf.AiohttpSession(
        server=connection.server,
        aiohttp_session=aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=connection.as_ssl_context()),
            headers={**connection.as_http_headers(), "User-Agent": agent},
            response_class=Response,
        ),
    )
