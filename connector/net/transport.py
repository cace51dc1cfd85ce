"""The transport below every HTTP call: aiohttp's connections behind httpx's interface
(docs/decisions/0028-transport.md).

Its errors are those of httpx, chosen by what matters for a request without an answer: may
bytes of it have left? `ConnectError`, `ConnectTimeout`, `UnsupportedProtocol` and
`LocalProtocolError` say that none has; all others say that it may have been carried out. Their text
names no URL, which may hold a person's address.
"""

from __future__ import annotations

import asyncio
import functools
import io
import os
import re
import select
import ssl
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import aiohttp
import httpx
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from yarl import URL

_IDLE_SECONDS = 4.0
"""Servers close idle connections after 5 s or more; one closed by us first breaks no request."""

_CONNECT_SECONDS = 10.0
_LARGE = 500_000
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_QUOTED = re.compile(r"(?:[\w\-.~!$&'()*+,;=:@/?\[\]]|%[0-9A-Fa-f]{2})+", re.ASCII)
"""A URL that httpx would leave as it is, but for the dots of its path."""
RawHeaders = Sequence[tuple[bytes, bytes]]


_INCOMPLETE = (
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientPayloadError,
    aiohttp.ClientResponseError,
)


@functools.cache
def tls_context() -> ssl.SSLContext:
    """What every TLS connection of this process is verified with: loading the certificates takes
    40 ms."""
    return httpx.create_ssl_context(trust_env=False)


class _Connector(aiohttp.TCPConnector):
    """aiohttp's, which may return a kept connection that its server has closed a moment ago."""

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=_IDLE_SECONDS)
        self._used: weakref.WeakSet[asyncio.BaseProtocol] = weakref.WeakSet()

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        while True:
            connection = await super().connect(*args, **kwargs)
            protocol, transport = connection.protocol, connection.transport
            if protocol is None or protocol not in self._used:
                if protocol is not None:
                    self._used.add(protocol)
                return connection
            if transport is not None and not transport.is_closing() and not _readable(transport):
                return connection
            connection.close()


def _readable(transport: asyncio.Transport) -> bool:
    """Whether bytes or the end wait, which before a request can only be the server's good-bye."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), select.POLLIN)
    return bool(poll.poll(0))


class ConnectionPool:
    """Connections to remote hosts that many transports share. Belongs to one event loop from its
    first request on. It sets no limit: who calls bounds what is in flight."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                middlewares=(_send_once,),
            )
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


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
        self._timeout = aiohttp.ClientTimeout(
            connect=timeout, sock_connect=min(timeout, _CONNECT_SECONDS), sock_read=timeout
        )

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
        try:
            # yarl would decode %40 of a path and %2C of a query.
            url = URL(address, encoded=True)
        except ValueError as error:
            raise httpx.UnsupportedProtocol("no URL that can be called") from error
        try:
            async with self._pool.session().request(
                method,
                url,
                headers=headers,
                data=_body(content),
                allow_redirects=False,
                timeout=self._timeout,
                ssl=tls_context() if url.scheme == "https" else True,
            ) as response:
                return response.status, response.raw_headers, await response.read()
        except (aiohttp.ClientError, OSError) as error:
            _raise(error)

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


def _body(content: bytes) -> bytes | io.BytesIO | None:
    """A large one is written piece by piece, so that the loop runs meanwhile."""
    return io.BytesIO(content) if len(content) > _LARGE else content or None


async def _send_once(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
    """aiohttp sends GET, PUT and DELETE again when a connection that was kept breaks. It does not
    where the error is none of its own."""
    try:
        return await send(request)
    except (aiohttp.ClientError, OSError) as error:
        _raise(error)


def _raise(error: Exception) -> NoReturn:
    if isinstance(error, aiohttp.ClientConnectorError):
        raise httpx.ConnectError(_reason(error)) from error
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        raise httpx.ConnectTimeout("no connection in time") from error
    if isinstance(error, aiohttp.InvalidURL):
        raise httpx.UnsupportedProtocol("no URL that can be called") from error
    if isinstance(error, TimeoutError):
        raise httpx.ReadTimeout("no answer in time") from error
    if isinstance(error, _INCOMPLETE):
        raise httpx.RemoteProtocolError("no complete answer") from error
    raise httpx.ReadError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """What the system says; the texts of aiohttp name the URL."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = getattr(cause, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else type(cause).__name__
