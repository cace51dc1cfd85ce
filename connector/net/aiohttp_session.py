"""The session of aiohttp below connector.net.transport, whose errors it turns into those of httpx.

Nothing but that module imports it, once the daemon takes webhooks or the first request is sent:
aiohttp takes as long to import as a tenth of a start.
"""

from __future__ import annotations

import asyncio
import io
import os
import select
import ssl
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import aiohttp
import httpx
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from yarl import URL

_IDLE_SECONDS = 4.0
"""Servers close idle connections after 5 s or more; one closed by us first breaks no request."""
_LARGE = 500_000

_INCOMPLETE = (
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientPayloadError,
    aiohttp.ClientResponseError,
)


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


class Session:
    """Connections to remote hosts, of one event loop. It sets no limit: who calls bounds what is in
    flight."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=_Connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            middlewares=(_send_once,),
        )

    async def send(
        self,
        method: str,
        address: str,
        headers: Mapping[str, str],
        content: bytes,
        *,
        timeout: float,
        connect_timeout: float,
        tls: Callable[[], ssl.SSLContext],
    ) -> tuple[int, Sequence[tuple[bytes, bytes]], bytes]:
        """Status, headers and the whole body. `address` is quoted. `timeout`: seconds for each
        read, and for getting a connection; `connect_timeout`: for opening one. Raises the errors of
        httpx."""
        try:
            # yarl would decode %40 of a path and %2C of a query.
            url = URL(address, encoded=True)
            _ = url.port  # read when it is asked for
            (url.raw_host or "").encode("idna")
        except ValueError:
            # Its text quotes the address, which may be a secret.
            raise httpx.UnsupportedProtocol("no URL that can be called") from None
        if url.raw_user is not None and any(name.lower() == "authorization" for name in headers):
            raise httpx.UnsupportedProtocol("a user in the URL, beside the header Authorization")
        limits = aiohttp.ClientTimeout(
            connect=timeout, sock_connect=connect_timeout, sock_read=timeout
        )
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=_body(content),
                allow_redirects=False,
                timeout=limits,
                ssl=tls() if url.scheme == "https" else True,
            ) as response:
                return response.status, response.raw_headers, await response.read()
        except (aiohttp.ClientError, OSError) as error:
            _raise(error)

    async def aclose(self) -> None:
        await self._session.close()


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
