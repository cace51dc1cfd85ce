"""The only module that imports httpx, and the only one that knows what a status means.

`Http.call` turns whatever a far end or the network does into an `Answer` or into one of the four
delivery errors. The table is DESIGN 3, "Answers":

    2xx                       Answer
    429, 503, non-JSON 403    Wait      certainly not applied
    no connection             Wait      no byte left
    400 405 409 413 415 422   Rejected  this record will not be taken
    404                       Blocked   the target
    403 with JSON, 3xx        Blocked   the lane
    401, 410                  Blocked   the account
    every other 5xx, 408      Unknown   it may have been applied
    time-out, reset, torn     Unknown
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlencode, urlsplit

import httpx
import orjson

from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
)
from connector.ports import Clock
from connector.runtime.log import redact

Vendor = Literal["klaviyo", "platform"]

_PROBLEMS: dict[Vendor, dict[str, Problem]] = {
    "klaviyo": {
        "refused": Problem.KLAVIYO_REFUSED,
        "key": Problem.KLAVIYO_KEY,
        "scope": Problem.KLAVIYO_SCOPE,
        "target": Problem.KLAVIYO_TARGET,
        "conflict": Problem.KLAVIYO_CONFLICT,
        "gone": Problem.KLAVIYO_REVISION,
        "large": Problem.KLAVIYO_TOO_LARGE,
        "throttled": Problem.KLAVIYO_THROTTLED,
        "unavailable": Problem.KLAVIYO_UNAVAILABLE,
    },
    "platform": {
        "refused": Problem.PLATFORM_REFUSED,
        "key": Problem.PLATFORM_KEY,
        "scope": Problem.PLATFORM_SCOPE,
        "target": Problem.PLATFORM_TARGET,
        "conflict": Problem.PLATFORM_REFUSED,
        "gone": Problem.PLATFORM_TARGET,
        "large": Problem.PLATFORM_REFUSED,
        "throttled": Problem.PLATFORM_THROTTLED,
        "unavailable": Problem.PLATFORM_UNAVAILABLE,
    },
}

_CHALLENGE_PAUSE = 30.0
_MAX_RETRY_AFTER = 3600.0
_DETAIL_MAX = 200
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")
"""How OAuth words its errors (RFC 6749, 5.2). What is not such a code may echo data."""


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A 2xx answer. `headers` are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded. Raises Unknown when it is not JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise AmbiguousError(
                Problem.ANSWER_UNREADABLE, str(error), status=self.status
            ) from error


@dataclass(frozen=True, slots=True)
class CallStats:
    """What a call came to, for metrics and quotas: `status` is None when no answer came."""

    route: str
    status: int | None
    headers: Mapping[str, str]
    seconds: float


def client(*, timeout: float = 30.0, max_connections: int = 20) -> httpx.AsyncClient:
    """The only client factory. `timeout` in seconds for each of connect, read, write and pool.

    httpcore's pool slows down with many connections (docs/decisions/0004-http.md), so few are kept.
    """
    return httpx.AsyncClient(
        timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
        limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=20),
        follow_redirects=False,
        trust_env=False,
    )


ClientFactory = Callable[[], httpx.AsyncClient]


class _InProcess(httpx.AsyncBaseTransport):
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


def in_process(app: Any) -> httpx.AsyncClient:
    """A client whose far end is an ASGI application in this process, for tests. An application
    that raises ConnectionResetError, ConnectionRefusedError or TimeoutError is a line that broke
    after the request left, one that never stood, and one that stays silent."""
    return httpx.AsyncClient(transport=_InProcess(app), follow_redirects=False)


def is_loopback(host: str) -> bool:
    """Whether a host stands for this machine. A name that begins with `127.` does not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Credential = Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]
"""What proves us to a far end: headers, asked for at each call; a token may have to be fetched."""


@runtime_checkable
class Token(Protocol):
    """A credential that goes out of date. `in_query`: it belongs in the address, not in headers."""

    in_query: bool

    def __call__(self) -> Awaitable[Mapping[str, str]]: ...

    def invalidate(self, auth: Mapping[str, str]) -> bool:
        """The far end does not take this proof. Whether another one may be had."""
        ...


class Http:
    """Calls one far end. `vendor` picks the problem codes, `credential` yields the auth headers,
    `seen` is told of every call that left or tried to."""

    def __init__(
        self,
        base_url: str,
        *,
        vendor: Vendor,
        clock: Clock,
        credential: Credential,
        headers: Mapping[str, str] | None = None,
        allow_http: frozenset[str] = frozenset(),
        wait_statuses: frozenset[int] = frozenset({429, 503}),
        on_call: Callable[[CallStats], None] | None = None,
        http: httpx.AsyncClient | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._problems = _PROBLEMS[vendor]
        self._clock = clock
        self._credential = credential
        self._headers = dict(headers or {})
        self._wait_statuses = wait_statuses
        self._on_call = on_call
        self._client = http or client(timeout=timeout)
        parts = urlsplit(self._base)
        host = parts.hostname or ""
        self._tls_fault = parts.scheme != "https" and not (is_loopback(host) or host in allow_http)
        self._host = host

    async def aclose(self) -> None:
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        route: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiResponse:
        """One request, one answer or one DeliveryError. `path` may carry data and is never logged;
        `route` is its template and is. `content` is JSON, unless the headers name another type.
        A token that is refused is renewed and tried once more."""
        if self._tls_fault:
            raise Blocked(
                Problem.TLS_REQUIRED,
                f"{self._host} is called without TLS; if you mean it: [security] allow_http",
                scope="account",
            )
        token = self._credential if isinstance(self._credential, Token) else None
        json = {} if content is None else {"content-type": "application/json"}
        sent = {**json, **self._headers, **(headers or {})}
        auth = await self._auth()
        try:
            return await self._send(method, path, route, content, sent, auth)
        except Blocked as error:
            if error.status != 401 or token is None or not token.invalidate(auth):
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
        url = self._base + path
        if isinstance(self._credential, Token) and self._credential.in_query:
            url += ("&" if "?" in path else "?") + urlencode(auth)
        else:
            sent = {**sent, **auth}
        started = self._clock.monotonic()
        status: int | None = None
        headers: Mapping[str, str] = {}
        try:
            response = await self._client.request(method, url, content=content, headers=sent)
            status = response.status_code
            headers = response.headers
            return self._classify(response)
        except (httpx.LocalProtocolError, UnicodeEncodeError):
            # Their text quotes the header that cannot be sent, and that may be the key.
            raise Blocked(
                self._problems["key"],
                "a header cannot be sent: does the key hold a line break or a letter that is not"
                " ASCII?",
                scope="account",
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise to_delivery_error(error) from error
        finally:
            if self._on_call:
                self._on_call(CallStats(route, status, headers, self._clock.monotonic() - started))

    def _classify(self, response: httpx.Response) -> ApiResponse:
        status, words = response.status_code, self._problems
        if 200 <= status < 300:
            return ApiResponse(status, response.headers, response.content)
        if status in self._wait_statuses:
            word = "throttled" if status == 429 else "unavailable"
            after = retry_after(response.headers)
            raise RetryLater(words[word], _detail(response), status=status, after=after)
        if status == 403 and not _is_json(response):
            raise RetryLater(Problem.CHALLENGED, status=status, after=_CHALLENGE_PAUSE)
        if status in {401, 410}:
            problem = words["key" if status == 401 else "gone"]
            raise Blocked(problem, _detail(response), scope="account", status=status)
        if status == 404:
            raise Blocked(words["target"], _detail(response), scope="target", status=status)
        if status == 403 or 300 <= status < 400:
            problem = words["scope" if status == 403 else "target"]
            raise Blocked(problem, _detail(response), scope="lane", status=status)
        if status >= 500 or status == 408:
            raise AmbiguousError(Problem.SERVER_FAULT, _detail(response), status=status)
        word = {409: "conflict", 413: "large"}.get(status, "refused")
        pointers, meta = _pointers(response)
        raise Rejected(words[word], _detail(response), status=status, pointers=pointers, meta=meta)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of a `Retry-After` header, else of `RateLimit-Reset`, at most an hour; 0 when there
    is neither or it is a date."""
    said = headers.get("retry-after") or headers.get("ratelimit-reset", "0")
    try:
        return min(max(0.0, float(said)), _MAX_RETRY_AFTER)
    except ValueError:
        return 0.0


def to_delivery_error(error: httpx.HTTPError | httpx.InvalidURL) -> DeliveryError:
    """Every httpx error as a delivery error: did a byte leave or not?"""
    if isinstance(error, httpx.ConnectError):
        if _caused_by(error, socket.gaierror):
            return RetryLater(Problem.NAME_NOT_RESOLVED, str(error))
        if _caused_by(error, ssl.SSLError):
            return RetryLater(Problem.NOT_CONNECTED, f"TLS: {error}")
        return RetryLater(Problem.NOT_CONNECTED, str(error))
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return RetryLater(Problem.NOT_CONNECTED, "no connection in time")
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.InvalidURL):
        return RetryLater(Problem.NOT_CONNECTED, f"not sent: {type(error).__name__}")
    if isinstance(error, httpx.TimeoutException):
        return AmbiguousError(Problem.TIMED_OUT)
    if isinstance(error, httpx.NetworkError):
        return AmbiguousError(Problem.CONNECTION_LOST, str(error))
    return AmbiguousError(Problem.ANSWER_UNREADABLE, str(error))


def _caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kind):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _is_json(response: httpx.Response) -> bool:
    return "json" in response.headers.get("content-type", "").lower()


def _errors(response: httpx.Response) -> list[dict[str, Any]]:
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return []
    errors = body.get("errors") if isinstance(body, dict) else None
    word = body.get("error") if isinstance(body, dict) else None
    if isinstance(word, str) and _ERROR_CODE.fullmatch(word):
        return [{"code": word}]
    return [e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []


def _detail(response: httpx.Response) -> str:
    """What the far end said, without its echo of our data: codes and titles, not details."""
    said = [_error_text(e) for e in _errors(response)[:3]]
    return f"HTTP {response.status_code}" + (f" ({'; '.join(said)})" if said else "")


def _error_text(error: Mapping[str, Any]) -> str:
    title = error.get("title", "")
    return redact(f"{error.get('code', '?')}: {title}".removesuffix(": "))[:_DETAIL_MAX]


def _pointers(response: httpx.Response) -> tuple[list[tuple[str, str]], dict[str, object]]:
    found: list[tuple[str, str]] = []
    meta: dict[str, object] = {}
    for error in _errors(response):
        source = error.get("source")
        pointer = source.get("pointer") if isinstance(source, dict) else None
        found.append((str(pointer or ""), _error_text(error)))
        if not meta and isinstance(error.get("meta"), dict):
            meta = error["meta"]
    return found, meta


async def post(
    url: str, body: bytes, *, clock: Clock, allow_http: frozenset[str] = frozenset()
) -> int:
    """POST JSON to an address that is a credential itself, and so stands in no error; the status of
    a 2xx answer. Raises DeliveryError."""
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}"
    kind = {"content-type": "application/json"}
    # Not a platform; but what its statuses mean is the same.
    http = Http(
        base,
        vendor="platform",
        clock=clock,
        credential=lambda: kind,
        allow_http=allow_http,
        timeout=10.0,
    )
    try:
        return (await http.call("POST", url[len(base) :], route="POST", content=body)).status
    finally:
        await http.aclose()


async def get(url: str) -> tuple[int, str]:
    """A GET for a person or a probe: (status, text), or (0, why there was no answer)."""
    async with client(timeout=5.0) as asker:
        try:
            response = await asker.get(url)
        except httpx.HTTPError as error:
            return 0, f"no answer: {type(error).__name__}"
        return response.status_code, response.text
