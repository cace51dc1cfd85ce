"""The transport below every HTTP call: aiohttp's connections behind httpx's interface
(docs/decisions/0028-transport.md).

Its errors are those of httpx, chosen by what matters for a request without an answer: may
bytes of it have left? `ConnectError`, `ConnectTimeout`, `UnsupportedProtocol` and
`LocalProtocolError` say that none has; all others say that it may have been carried out. Their text
names no URL, which may hold a person's address.
"""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import httpx

if TYPE_CHECKING:
    from connector.net.aiohttp_session import Session

_CONNECT_SECONDS = 10.0
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_QUOTED = re.compile(r"(?:[\w\-.~!$&'()*+,;=:@/?\[\]]|%[0-9A-Fa-f]{2})+", re.ASCII)
"""A URL that httpx would leave as it is, but for the dots of its path."""
RawHeaders = Sequence[tuple[bytes, bytes]]


@functools.cache
def tls_context() -> ssl.SSLContext:
    """What every TLS connection of this process is verified with: loading the certificates takes
    40 ms."""
    return httpx.create_ssl_context(trust_env=False)


LIBRARY = ("connector.net.aiohttp_session",)
"""What is imported with the first request."""


class ConnectionPool:
    """Connections to remote hosts that many transports share. Belongs to one event loop from its
    first request on. It sets no limit: who calls bounds what is in flight."""

    def __init__(self) -> None:
        self._session: Session | None = None

    def session(self) -> Session:
        if self._session is None:
            from connector.net.aiohttp_session import Session

            self._session = Session()
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.aclose()


class Answer(NamedTuple):
    """The names of `headers` are lower case; `body` is decoded."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(httpx.AsyncBaseTransport):
    """Sends a request once, follows no redirect, and returns the response with its whole body.
    `timeout`: seconds for each read, and for getting a connection."""

    def __init__(self, pool: ConnectionPool | None = None, *, timeout: float = 30.0) -> None:
        self._pool, self._owned = pool or ConnectionPool(), pool is None
        self._timeout = timeout

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> Answer:
        """Without the objects of httpx, which cost as much as the request itself."""
        if not all(value.isascii() and not _UNSENDABLE.search(value) for value in headers.values()):
            raise httpx.LocalProtocolError("a header cannot be sent")
        if not _QUOTED.fullmatch(url) or "/." in url:
            url = str(httpx.URL(url))
        status, raw, body = await self._send(method, url, headers, content or b"")
        if any(name.lower() == b"content-encoding" for name, _ in raw):
            response = httpx.Response(status, headers=raw, content=body)
            return Answer(status, response.headers, response.content)
        return Answer(status, _decoded(raw), body)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if any(_UNSENDABLE.search(value.decode("latin-1")) for _, value in request.headers.raw):
            raise httpx.LocalProtocolError("a header cannot be sent")
        status, raw, body = await self._send(
            request.method, str(request.url), request.headers, request.content
        )
        return httpx.Response(status, headers=raw, content=body)

    async def _send(
        self, method: str, address: str, headers: Mapping[str, str], content: bytes
    ) -> tuple[int, RawHeaders, bytes]:
        """`address` is quoted."""
        return await self._pool.session().send(
            method,
            address,
            headers,
            content,
            timeout=self._timeout,
            connect_timeout=min(self._timeout, _CONNECT_SECONDS),
            tls=tls_context,
        )

    async def aclose(self) -> None:
        if self._owned:
            await self._pool.aclose()


def _decoded(raw: RawHeaders) -> dict[str, str]:
    """Lower-case name → value; several of one name are joined."""
    found: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), _text(value)
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
