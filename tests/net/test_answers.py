"""What every status and every failure of the network means."""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr

from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
)
from connector.net.answers import retry_after
from connector.net.auth import HeaderKey
from connector.net.http import (
    ApiResponse,
    CallStats,
    Http,
    get,
    to_delivery_error,
)
from connector.testing.fakes.clock import FakeClock

from .servers import ACCEPTED, raw_server, read_request, reset

BASE = "https://far.example"
SECRET = "pk_verysecret0123456789"
ADDRESS = "ana@example.com"
BODY = orjson.dumps({"email": ADDRESS})


def make_http(answer: Callable[[httpx.Request], httpx.Response] | Exception, **more: Any) -> Http:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer(request)

    options: dict[str, Any] = {
        "vendor": "klaviyo",
        "clock": FakeClock(),
        "credential": HeaderKey("Authorization", SecretStr(SECRET), prefix="Klaviyo-API-Key "),
        "transport": httpx.MockTransport(handle),
        **more,
    }
    return Http(options.pop("base_url", BASE), **options)


def errors(*found: dict[str, Any]) -> bytes:
    return orjson.dumps({"errors": list(found)})


def error(pointer: str | None = "/data", **more: Any) -> dict[str, Any]:
    source = {} if pointer is None else {"pointer": pointer}
    return {
        "id": "1",
        "code": "invalid",
        "title": "Invalid input.",
        "detail": f"{ADDRESS} is not a valid address",
        "source": source,
        "meta": {},
        **more,
    }


async def outcome(http: Http) -> ApiResponse | DeliveryError:
    try:
        return await http.call("POST", "/api/events", route="POST /api/events", content=BODY)
    except DeliveryError as failed:
        return failed
    finally:
        await http.aclose()


async def answered(status: int, content: bytes = b"", **more: Any) -> ApiResponse | DeliveryError:
    headers = more.pop("headers", {"content-type": "application/vnd.api+json"})
    return await outcome(
        make_http(lambda _: httpx.Response(status, headers=headers, content=content), **more)
    )


# ── the table, written by hand ───────────────────────────────────────────────────────────────────

TABLE: dict[int, tuple[type, Problem, str | None]] = {
    401: (Blocked, Problem.KLAVIYO_KEY, "account"),
    403: (Blocked, Problem.KLAVIYO_SCOPE, "lane"),
    404: (Blocked, Problem.KLAVIYO_TARGET, "target"),
    408: (AmbiguousError, Problem.SERVER_FAULT, None),
    409: (Rejected, Problem.KLAVIYO_CONFLICT, None),
    410: (Blocked, Problem.KLAVIYO_REVISION, "account"),
    413: (Rejected, Problem.KLAVIYO_TOO_LARGE, None),
    429: (RetryLater, Problem.KLAVIYO_THROTTLED, None),
    503: (RetryLater, Problem.KLAVIYO_UNAVAILABLE, None),
}
PLATFORM = {
    400: Problem.PLATFORM_REFUSED,
    401: Problem.PLATFORM_KEY,
    403: Problem.PLATFORM_SCOPE,
    404: Problem.PLATFORM_TARGET,
    409: Problem.PLATFORM_REFUSED,
    410: Problem.PLATFORM_TARGET,
    413: Problem.PLATFORM_REFUSED,
    422: Problem.PLATFORM_REFUSED,
    429: Problem.PLATFORM_THROTTLED,
    500: Problem.SERVER_FAULT,
    503: Problem.PLATFORM_UNAVAILABLE,
}


def expected(status: int) -> tuple[type, Problem | None, str | None]:
    if status in TABLE:
        return TABLE[status]
    if status < 300:
        return ApiResponse, None, None
    if status < 400:
        return Blocked, Problem.KLAVIYO_REDIRECT, "lane"
    if status < 500:
        return Rejected, Problem.KLAVIYO_REFUSED, None
    return AmbiguousError, Problem.SERVER_FAULT, None


async def test_every_status_maps_to_one_error() -> None:
    for status in range(200, 600):
        kind, problem, scope = expected(status)
        found = await answered(status, errors(error()))
        assert type(found) is kind, status
        assert found.status == status
        assert getattr(found, "problem", None) is problem, status
        assert getattr(found, "scope", None) == scope, status


@pytest.mark.parametrize(("status", "problem"), PLATFORM.items())
async def test_a_platform_has_problem_codes_of_its_own(status: int, problem: Problem) -> None:
    found = await answered(status, errors(error()), vendor="platform")
    assert isinstance(found, DeliveryError)
    assert found.problem is problem


async def test_the_statuses_that_mean_wait_are_configurable() -> None:
    found = await answered(503, retry_statuses=frozenset({429}))
    assert isinstance(found, AmbiguousError)
    found = await answered(423, retry_statuses=frozenset({423, 429}))
    assert isinstance(found, RetryLater)


@pytest.mark.parametrize("kind", ["text/html; charset=UTF-8", "text/plain", None])
async def test_a_403_with_html_is_a_challenge_and_waits(kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    found = await answered(403, b"<html>Just a moment...</html>", headers=headers)
    assert isinstance(found, RetryLater)
    assert (found.problem, found.after > 0) == (Problem.CHALLENGED, True)


@pytest.mark.parametrize("vendor", ["klaviyo", "platform"])
async def test_without_a_content_type_a_403_is_judged_by_its_body(vendor: str) -> None:
    """Klaviyo's gateway answers JSON without that header (recorded for 429)."""
    scope = Problem.KLAVIYO_SCOPE if vendor == "klaviyo" else Problem.PLATFORM_SCOPE
    for body in (errors(error()), b'  {"error": "insufficient_scope"}'):
        found = await answered(403, body, headers={}, vendor=vendor)
        assert isinstance(found, Blocked)
        assert found.problem is scope
    for body in (b"", b"<html>", b'"text"', b"{not json"):
        found = await answered(403, body, headers={}, vendor=vendor)
        assert isinstance(found, RetryLater)


async def test_without_a_content_type_a_429_shows_its_code() -> None:
    throttled = {"code": "throttled", "title": "Request was throttled."}
    found = await answered(429, errors(throttled), headers={"retry-after": "1"})
    assert isinstance(found, RetryLater)
    assert found.detail == "HTTP 429 (throttled: Request was throttled.)"


@pytest.mark.parametrize(
    "kind", ["application/json", "application/vnd.api+json; v=1", "Application/JSON"]
)
async def test_a_403_with_json_is_no_challenge(kind: str) -> None:
    found = await answered(403, errors(error()), headers={"content-type": kind})
    assert isinstance(found, DeliveryError)
    assert found.problem is Problem.KLAVIYO_SCOPE


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1.0),
        ("0", 0.0),
        ("2.5", 2.5),
        (" 7 ", 7.0),
        ("67608", 3600.0),
        ("inf", 3600.0),
        ("nan", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        (None, 0.0),
    ],
)
async def test_retry_after_is_read_and_capped(text: str | None, seconds: float) -> None:
    headers = {} if text is None else {"retry-after": text}
    assert retry_after(headers) == seconds
    # Without it the reset of the limit counts.
    assert retry_after({"ratelimit-reset": "9", **headers}) == (seconds if text else 9.0)
    for status in (429, 503):
        found = await answered(status, headers=headers)
        assert isinstance(found, RetryLater)
        assert found.after == seconds


# ── what an error answer says ────────────────────────────────────────────────────────────────────


async def test_pointers_keep_their_order_and_meta_comes_from_the_first_error_with_one() -> None:
    body = errors(
        error("/data/attributes/events-bulk-create/data/3/attributes"),
        error(None, code="duplicate_profile", meta={"duplicate_profile_id": "01ABC"}),
        error("/data", meta={"duplicate_profile_id": "01XYZ"}),
    )
    found = await answered(409, body)
    assert isinstance(found, Rejected)
    assert found.pointers == (
        ("/data/attributes/events-bulk-create/data/3/attributes", "invalid: Invalid input."),
        ("", "duplicate_profile: Invalid input."),
        ("/data", "invalid: Invalid input."),
    )
    assert found.meta == {"duplicate_profile_id": "01ABC"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'{"errors":7}',
        b'{"errors":[7,null]}',
        b'{"errors":[{"source":5,"meta":[],"title":{"a":1}}]}',
    ],
)
async def test_an_error_response_of_any_shape_is_parsed(body: bytes) -> None:
    found = await answered(400, body)
    assert isinstance(found, Rejected)
    assert found.meta == {}
    assert found.detail.startswith("HTTP 400")


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 410, 413, 422, 429, 500, 503])
async def test_details_repeat_neither_the_request_nor_the_response(status: int) -> None:
    title = f"{ADDRESS} " + "x" * 10_000
    found = await answered(status, errors(error(), error(title=title)))
    assert isinstance(found, DeliveryError)
    text = f"{found} {found!r} {found.detail} {getattr(found, 'pointers', '')}"
    assert ADDRESS not in text
    assert "not a valid address" not in text
    assert SECRET not in text
    assert len(found.detail) < 1_000


async def test_a_response_parses_its_json() -> None:
    found = await answered(200, b'{"a":1}')
    assert isinstance(found, ApiResponse)
    assert found.json() == {"a": 1}
    assert found.headers["content-type"] == "application/vnd.api+json"


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a":', b"\xff"])
async def test_an_unreadable_response_is_ambiguous(body: bytes) -> None:
    found = await answered(200, body)
    assert isinstance(found, ApiResponse)
    with pytest.raises(AmbiguousError) as caught:
        found.json()
    assert caught.value.problem is Problem.ANSWER_UNREADABLE
    assert caught.value.status == 200


# ── every exception of httpx ─────────────────────────────────────────────────────────────────────

NO_BYTE_LEFT = {
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
}


def family(kind: type[httpx.HTTPError]) -> list[type[httpx.HTTPError]]:
    return [kind, *(child for sub in kind.__subclasses__() for child in family(sub))]


EVERY = sorted(set(family(httpx.HTTPError)), key=lambda kind: kind.__name__)


def make_error(kind: type[httpx.HTTPError]) -> httpx.HTTPError:
    if kind is httpx.HTTPStatusError:
        request = httpx.Request("GET", BASE)
        return httpx.HTTPStatusError("x", request=request, response=httpx.Response(200))
    return kind("x")


@pytest.mark.parametrize("kind", EVERY)
async def test_every_httpx_error_is_classified_by_whether_bytes_may_have_been_sent(
    kind: type[httpx.HTTPError],
) -> None:
    wanted = RetryLater if kind in NO_BYTE_LEFT else AmbiguousError
    assert type(to_delivery_error(make_error(kind), "klaviyo.test")) is wanted
    found = await outcome(make_http(make_error(kind)))
    assert isinstance(found, Blocked if kind is httpx.LocalProtocolError else wanted)


@pytest.mark.parametrize(
    ("failed", "problem"),
    [
        (httpx.ConnectTimeout("x"), Problem.NOT_CONNECTED),
        (httpx.PoolTimeout("x"), Problem.NOT_CONNECTED),
        (httpx.ConnectError("x"), Problem.NOT_CONNECTED),
        (httpx.ReadTimeout("x"), Problem.TIMED_OUT),
        (httpx.WriteTimeout("x"), Problem.TIMED_OUT),
        (httpx.ReadError("x"), Problem.CONNECTION_LOST),
        (httpx.WriteError("x"), Problem.CONNECTION_LOST),
        (httpx.CloseError("x"), Problem.CONNECTION_LOST),
        (httpx.RemoteProtocolError("x"), Problem.ANSWER_UNREADABLE),
        (httpx.DecodingError("x"), Problem.ANSWER_UNREADABLE),
    ],
)
async def test_a_network_error_has_its_problem_code(
    failed: httpx.HTTPError, problem: Problem
) -> None:
    found = await outcome(make_http(failed))
    assert isinstance(found, DeliveryError)
    assert (found.problem, found.status) == (problem, None)


async def test_an_invalid_url_is_known_not_sent() -> None:
    http = make_http(lambda _: httpx.Response(202))
    with pytest.raises(RetryLater):
        await http.call("GET", "/a\nb?email=ana@example.com", route="GET /a")
    await http.aclose()


@pytest.mark.parametrize(
    ("base", "named", "why"),
    [
        ("https://far.example:84430", "far.example:84430", "no URL that can be called"),
        ("https://far..example", "far..example", "no URL that can be called"),
        (f"https://{'a' * 64}.example", ".example", "no URL that can be called"),
        ("https://user:pw@far.example", "far.example", "beside the header Authorization"),
    ],
)
async def test_a_url_that_cannot_be_called_is_known_not_sent(
    base: str, named: str, why: str
) -> None:
    http = Http(
        base,
        vendor="klaviyo",
        clock=FakeClock(),
        credential=HeaderKey("Authorization", SecretStr(SECRET)),
    )
    found = await outcome(http)
    assert isinstance(found, RetryLater)
    assert named in str(found)
    assert why in str(found)
    assert "pw" not in str(found)
    await http.aclose()


# ── TLS and secrets ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "base",
    [
        "http://a.klaviyo.com",
        "http://127.evil.example",
        "http://10.0.0.1",
        "http://localhost.evil.example",
        "ftp://a.klaviyo.com",
    ],
)
async def test_nothing_is_sent_without_tls(base: str) -> None:
    sent: list[httpx.Request] = []
    seen: list[CallStats] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(202)

    found = await outcome(make_http(handle, base_url=base, on_call=seen.append))
    assert isinstance(found, Blocked)
    assert (found.problem, found.scope) == (Problem.TLS_REQUIRED, "account")
    assert (sent, seen) == ([], [])


@pytest.mark.parametrize(
    "base",
    [
        "https://a.klaviyo.com",
        "http://localhost:1",
        "http://klaviyo.localhost:1",
        "http://127.0.0.2",
        "http://[::1]:1",
    ],
)
async def test_tls_and_loopback_urls_are_allowed(base: str) -> None:
    assert isinstance(
        await outcome(make_http(lambda _: httpx.Response(202), base_url=base)), ApiResponse
    )


async def test_an_allowed_host_may_be_called_without_tls() -> None:
    found = await outcome(
        make_http(
            lambda _: httpx.Response(202),
            base_url="http://Inside.example",
            allow_http=frozenset({"inside.example"}),
        )
    )
    assert isinstance(found, ApiResponse)


def test_a_key_is_in_no_repr() -> None:
    key = HeaderKey("Authorization", SecretStr(SECRET), prefix="Klaviyo-API-Key ")
    assert key() == {"Authorization": f"Klaviyo-API-Key {SECRET}"}
    assert SECRET not in f"{key!r} {key}"
    assert SECRET not in repr(make_http(lambda _: httpx.Response(202)))


@pytest.mark.parametrize("key", ["verysecret\n", "verysecret\r\nx: y", "verysecreté"])
async def test_a_key_that_is_not_a_valid_header_blocks_and_is_not_quoted(key: str) -> None:
    """h11 says `Illegal header value b'…'`, with the key in it."""
    server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    http = Http(
        f"http://127.0.0.1:{port}",
        vendor="platform",
        clock=FakeClock(),
        credential=HeaderKey("api-key", SecretStr(key)),
    )
    async with server:
        with pytest.raises(Blocked) as caught:
            await http.call("GET", "/", route="GET /")
    await http.aclose()
    assert (caught.value.problem, caught.value.scope) == (Problem.PLATFORM_KEY, "account")
    assert "verysecret" not in "".join(traceback.format_exception(caught.value))


async def test_every_request_is_recorded_by_its_route_and_never_by_its_path() -> None:
    seen: list[CallStats] = []
    http = make_http(lambda _: httpx.Response(202), on_call=seen.append)
    await http.call("GET", f"/api/profiles?email={ADDRESS}", route="GET /api/profiles")
    await http.aclose()
    await outcome(make_http(httpx.ReadTimeout("x"), on_call=seen.append))
    assert [(s.route, s.status) for s in seen] == [
        ("GET /api/profiles", 202),
        ("POST /api/events", None),
    ]


async def test_a_redirect_is_not_followed() -> None:
    found = await answered(307, headers={"location": "https://elsewhere.example/"})
    assert isinstance(found, Blocked)
    assert found.scope == "lane"


# ── real sockets ─────────────────────────────────────────────────────────────────────────────────


async def post(http: Http) -> ApiResponse | DeliveryError:
    try:
        return await http.call("POST", "/api/events", route="POST /api/events", content=BODY)
    except DeliveryError as failed:
        return failed


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def test_a_refused_connection_is_known_not_applied() -> None:
    http = Http(
        f"http://127.0.0.1:{free_port()}", vendor="klaviyo", clock=FakeClock(), credential=dict
    )
    found = await outcome(http)
    assert isinstance(found, RetryLater)
    assert found.problem is Problem.NOT_CONNECTED
    assert found.detail.startswith("127.0.0.1")


async def test_an_unresolvable_host_has_its_own_problem_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # As a resolver answers for a name under .invalid, without asking one.
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    http = Http("https://nowhere.invalid", vendor="klaviyo", clock=FakeClock(), credential=dict)
    found = await outcome(http)
    assert isinstance(found, RetryLater)
    assert found.problem is Problem.NAME_NOT_RESOLVED
    assert found.detail.startswith("nowhere.invalid: ")


async def test_a_server_without_tls_is_not_connected() -> None:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with raw_server(handler, scheme="https") as http:
        found = await post(http)
    assert isinstance(found, RetryLater)
    assert found.problem is Problem.NOT_CONNECTED
    assert "TLS" in found.detail


async def test_a_reset_after_the_request_is_ambiguous() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        reset(writer)

    async with raw_server(handler) as http:
        found = await post(http)
    assert isinstance(found, AmbiguousError)
    assert found.problem is Problem.CONNECTION_LOST


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 50\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nhalf",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_a_truncated_response_is_ambiguous(text: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(text)
        await writer.drain()

    async with raw_server(handler) as http:
        found = await post(http)
    assert isinstance(found, AmbiguousError)
    assert found.problem is Problem.ANSWER_UNREADABLE


async def test_a_stalled_response_is_ambiguous() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.Event().wait()

    async with raw_server(handler, timeout=0.05) as http:
        found = await post(http)
    assert isinstance(found, AmbiguousError)
    assert found.problem is Problem.TIMED_OUT


async def test_a_keepalive_connection_lost_during_a_request_is_ambiguous() -> None:
    """The server may have read it: it looks like a request that was applied."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(ACCEPTED)
        await writer.drain()
        await read_request(reader)

    async with raw_server(handler) as http:
        assert isinstance(await post(http), ApiResponse)
        found = await post(http)
    assert isinstance(found, AmbiguousError)


async def test_a_keepalive_connection_closed_between_requests_is_replaced() -> None:
    closed = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(ACCEPTED)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with raw_server(handler) as http:
        for _ in range(3):
            closed.clear()
            assert isinstance(await post(http), ApiResponse)
            await closed.wait()


async def test_a_probe_reports_why_there_was_no_response() -> None:
    assert await get(f"http://127.0.0.1:{free_port()}/ready") == (0, "no answer: ConnectError")


async def test_a_body_is_sent_as_json_unless_a_type_is_given() -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("content-type"))
        return httpx.Response(204)

    plain = make_http(answer)
    await plain.call("GET", "/x", route="GET /x")
    await plain.call("POST", "/x", route="POST /x", content=BODY)
    named = make_http(answer, headers={"content-type": "application/vnd.api+json"})
    await named.call("POST", "/x", route="POST /x", content=BODY)
    assert seen == [None, "application/json", "application/vnd.api+json"]
