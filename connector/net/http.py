"""The only module that imports httpx: a client whose every call ends in an `ApiResponse` or in one
of the four delivery errors. What a status means is connector.net.answers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlencode, urlsplit

import orjson

from connector import __version__
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    RetryLater,
)
from connector.domain.hosts import is_loopback
from connector.net.answers import ANSWERS, RETRY_STATUSES, Vendor, error_for
from connector.ports import Clock
from connector.runtime.late_import import without

with without("rich", "click"):
    import httpx

_GET_DEADLINE = 10.0
_HEADERS = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
    "user-agent": f"loyalty-connector/{__version__}",
}
CALL_DEADLINE = 60.0
"""Seconds for one request and its whole response. More than the waits for a connection together
(client), so that a request which ends here has been sent."""


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A 2xx answer; the names of `headers` are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The decoded body. Raises AmbiguousError when it is not JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise AmbiguousError(
                Problem.ANSWER_UNREADABLE, str(error), status=self.status
            ) from error


@dataclass(frozen=True, slots=True)
class CallStats:
    """One call, for metrics and quotas: `status` is None when no answer came."""

    route: str
    status: int | None
    headers: Mapping[str, str]
    seconds: float


TransportFactory = Callable[[], httpx.AsyncBaseTransport]
Exchange = Callable[
    [str, str, Mapping[str, str], bytes | None], Awaitable[tuple[int, Mapping[str, str], bytes]]
]
"""Method, URL, headers and body of a request → status, headers and body of its answer."""


class InProcess(httpx.AsyncBaseTransport):
    """Calls an ASGI application in this process, for tests. One that raises ConnectionResetError,
    ConnectionRefusedError or TimeoutError is a connection lost after the request left, one that
    could not be made, and one without an answer."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._inner.handle_async_request(request)
        except ConnectionResetError as error:
            raise httpx.ReadError("reset") from error
        except ConnectionRefusedError as error:
            raise httpx.ConnectError("refused") from error
        except TimeoutError as error:
            raise httpx.ReadTimeout("no answer in time") from error


def _transport(timeout: float) -> httpx.AsyncBaseTransport:
    # aiohttp takes a tenth of a second to import, which commands that call no one do not wait for.
    from connector.net.transport import Transport

    return Transport(timeout=timeout)


def client(*, timeout: float = 30.0) -> httpx.AsyncClient:
    """A client for what is no remote API of ours. `timeout` in seconds as in Transport."""
    return httpx.AsyncClient(transport=_transport(timeout), trust_env=False)


def in_process(app: Any) -> httpx.AsyncClient:
    """A client of an ASGI application in this process, for tests."""
    return httpx.AsyncClient(transport=InProcess(app))


Credential = Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]
"""Returns the headers (or query parameters) that authenticate a call. Called before each one,
because a token may have to be fetched."""


@runtime_checkable
class Token(Protocol):
    """A credential that expires. `in_query`: it is sent as query parameters, not as headers."""

    in_query: bool

    def __call__(self) -> Awaitable[Mapping[str, str]]: ...

    def invalidate(self, auth: Mapping[str, str]) -> bool:
        """The remote API refused `auth`. Returns whether another one may be available."""
        ...


class Http:
    """A client of one remote API. `vendor` picks the table of connector.net.answers, `on_call` gets
    the figures of every call, also of one that failed. `deadline`: seconds within which a request
    is answered as a whole, however slowly its bytes come. `may_send` is called for each
    request that is not a GET, right before it gets a connection, because no remote API knows a
    fencing token (guarantee 12)."""

    def __init__(
        self,
        base_url: str,
        *,
        vendor: Vendor,
        clock: Clock,
        credential: Credential,
        headers: Mapping[str, str] | None = None,
        allow_http: frozenset[str] = frozenset(),
        retry_statuses: frozenset[int] = RETRY_STATUSES,
        on_call: Callable[[CallStats], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 30.0,
        deadline: float = CALL_DEADLINE,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._vendor: Vendor = vendor
        self._clock = clock
        self._credential = credential
        self._token = credential if isinstance(credential, Token) else None
        self._headers = {**_HEADERS, **(headers or {})}
        self._retry_statuses = retry_statuses
        self._on_call = on_call
        self._transport = transport or _transport(timeout)
        self._exchange = _exchange_of(self._transport)
        self._closed = False
        self._deadline = deadline
        self._may_send = may_send
        parts = urlsplit(self._base)
        host = parts.hostname or ""
        self._tls_fault = parts.scheme != "https" and not (is_loopback(host) or host in allow_http)
        self._bare_host = host
        self._host = parts.netloc.rpartition("@")[2]

    async def aclose(self) -> None:
        self._closed = True
        await self._transport.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        route: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiResponse:
        """Send one request; with a token that is refused, renew it and send once more.

        `path` may hold personal data and is never logged; `route` is its template. `content` is
        JSON unless `headers` name another type. Raises DeliveryError, and Blocked before anything
        is sent where the host is called without TLS.
        """
        if self._tls_fault:
            raise Blocked(
                Problem.TLS_REQUIRED,
                f"{self._bare_host} would be called without TLS, so nothing is sent: use https, or "
                "name it in [security] allow_http",
                scope="account",
            )
        json = {} if content is None else {"content-type": "application/json"}
        sent = {**json, **self._headers, **(headers or {})}
        auth = await self._auth()
        try:
            return await self._send(method, path, route, content, sent, auth)
        except Blocked as error:
            if error.status != 401 or self._token is None or not self._token.invalidate(auth):
                raise
        return await self._send(method, path, route, content, sent, await self._auth())

    async def _auth(self) -> Mapping[str, str]:
        auth = self._credential()
        return await auth if isinstance(auth, Awaitable) else auth

    async def _send(
        self,
        method: str,
        path: str,
        route: str,
        content: bytes | None,
        sent: Mapping[str, str],
        auth: Mapping[str, str],
    ) -> ApiResponse:
        if self._closed:
            # By a reload or a stop, while its caller was waiting.
            raise RetryLater(Problem.NOT_CONNECTED, "not sent: this client was closed")
        if method != "GET" and not self._may_send():
            raise RetryLater(Problem.STORE_HELD, "the lease ended before the request was sent")
        url = self._base + path
        if self._token and self._token.in_query:
            url += ("&" if "?" in path else "?") + urlencode(auth)
        else:
            sent = {**sent, **auth}
        started = self._clock.monotonic()
        status: int | None = None
        headers: Mapping[str, str] = {}
        try:
            async with asyncio.timeout(self._deadline):
                status, headers, body = await self._exchange(method, url, sent, content)
            error = error_for(
                self._vendor,
                status,
                headers,
                body,
                retry_statuses=self._retry_statuses,
            )
            if error:
                raise error
            return ApiResponse(status, headers, body)
        except (httpx.LocalProtocolError, UnicodeEncodeError):
            # Their text quotes the header that cannot be sent, which may be the key.
            raise Blocked(
                ANSWERS[self._vendor].meaning(401).problem,
                "a header cannot be sent: does the key hold a line break or a letter that is not"
                " ASCII?",
                scope="account",
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise to_delivery_error(error, self._host) from error
        except TimeoutError:
            text = f"{self._host}: no complete response within {self._deadline:g} s"
            raise AmbiguousError(Problem.TIMED_OUT, text) from None
        finally:
            if self._on_call:
                self._on_call(CallStats(route, status, headers, self._clock.monotonic() - started))


def _exchange_of(transport: httpx.AsyncBaseTransport) -> Exchange:
    """Ours exchanges by itself, because a client of httpx, its redirects, cookies and hooks, and
    its requests and responses cost as much as the transport (docs/decisions/0028-transport.md)."""
    found: Exchange | None = getattr(transport, "exchange", None)
    if found is not None:
        return found

    async def exchange(
        method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        request = httpx.Request(method, url, content=content, headers=headers)
        response = await transport.handle_async_request(request)
        body = await response.aread()
        return response.status_code, response.headers, body

    return exchange


def to_delivery_error(error: httpx.HTTPError | httpx.InvalidURL, host: str) -> DeliveryError:
    """RetryLater where no byte of the request left, else AmbiguousError. The detail names the
    host."""
    text = f"{host}: {error}" if str(error) else host
    if isinstance(error, httpx.ConnectError):
        if _caused_by(error, socket.gaierror):
            return RetryLater(Problem.NAME_NOT_RESOLVED, text)
        if _caused_by(error, ssl.SSLError):
            return RetryLater(Problem.NOT_CONNECTED, f"{host}: TLS: {error}")
        return RetryLater(Problem.NOT_CONNECTED, text)
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return RetryLater(Problem.NOT_CONNECTED, f"{host}: no connection in time")
    if isinstance(error, httpx.UnsupportedProtocol):
        return RetryLater(Problem.NOT_CONNECTED, f"{host}: not sent: {error}")
    if isinstance(error, httpx.LocalProtocolError | httpx.InvalidURL):
        return RetryLater(Problem.NOT_CONNECTED, f"{host}: not sent: {type(error).__name__}")
    if isinstance(error, httpx.TimeoutException):
        return AmbiguousError(Problem.TIMED_OUT, f"{host}: {Problem.TIMED_OUT.meaning}")
    if isinstance(error, httpx.NetworkError):
        return AmbiguousError(Problem.CONNECTION_LOST, text)
    return AmbiguousError(Problem.ANSWER_UNREADABLE, text)


def _caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kind):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


async def post(
    url: str, body: bytes, *, clock: Clock, allow_http: frozenset[str] = frozenset()
) -> int:
    """POST JSON to a URL that is itself a secret, so that no error quotes it. Returns the status of
    a 2xx answer, raises DeliveryError."""
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}"
    # Not a platform, but its statuses mean the same.
    http = Http(
        base,
        vendor="platform",
        clock=clock,
        credential=dict,
        allow_http=allow_http,
        timeout=10.0,
        deadline=20.0,
    )
    try:
        return (await http.call("POST", url[len(base) :], route="POST", content=body)).status
    finally:
        await http.aclose()


async def get(url: str) -> tuple[int, str]:
    """(status, text) of a GET, or (0, why there was no answer)."""
    return await _ask("GET", url, {}, None, timeout=5.0, deadline=_GET_DEADLINE)


async def send(url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
    """(status, text) of a POST, or (0, why there was no answer). It is not repeated."""
    return await _ask("POST", url, headers, body, timeout=15.0, deadline=30.0)


async def _ask(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    timeout: float,
    deadline: float,
) -> tuple[int, str]:
    async with client(timeout=timeout) as http:
        try:
            async with asyncio.timeout(deadline):
                response = await http.request(method, url, headers=dict(headers), content=body)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            return 0, f"no answer: {type(error).__name__}"
        return response.status_code, response.text
