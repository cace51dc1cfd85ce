"""Machine-to-machine OAuth: one token for its life, and what a token endpoint's answers mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx
import orjson
import pytest
from pydantic import SecretStr

from connector.domain.errors import Blocked, DeliveryError, Problem, RetryLater
from connector.net.auth import HeaderKey, OAuthToken
from connector.net.http import CallStats, Http
from connector.testing.fakes.clock import FakeClock

SECRET = "s3cr&t=%+ü/\\\"'"
LIFETIME = 86400


class FakeServer:
    """A token endpoint and an API that takes only the tokens it says."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.token_requests: list[httpx.Request] = []
        self.calls: list[httpx.Request] = []
        self.seen: list[CallStats] = []
        self.valid_tokens: set[str] | None = None
        self.token_answer: Callable[[], httpx.Response] | None = None
        self.more: dict[str, Any] = {"expires_in": LIFETIME, "token_type": "Bearer"}

    async def tokens(self, request: httpx.Request) -> httpx.Response:
        self.token_requests.append(request)
        await asyncio.sleep(0)
        if self.token_answer is not None:
            return self.token_answer()
        return httpx.Response(
            200, json={"access_token": f"t{len(self.token_requests)}", **self.more}
        )

    async def api(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request)
        await asyncio.sleep(0)
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = given or request.url.params.get("access_token", "")
        return httpx.Response(
            200 if self.valid_tokens is None or given in self.valid_tokens else 401, json={}
        )

    def token(self, url: str = "https://auth.example/oauth/token", **more: Any) -> OAuthToken:
        transport = Http(
            url,
            vendor="platform",
            clock=self.clock,
            credential=lambda: {},
            on_call=self.seen.append,
            transport=httpx.MockTransport(self.tokens),
        )
        options = {"client_id": "us", "client_secret": SecretStr(SECRET), **more}
        return OAuthToken(transport, clock=self.clock, **options)

    def http(self, token: OAuthToken, may_send: Callable[[], bool] = lambda: True) -> Http:
        return Http(
            "https://api.example",
            vendor="platform",
            clock=self.clock,
            credential=token,
            on_call=self.seen.append,
            transport=httpx.MockTransport(self.api),
            may_send=may_send,
        )


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


async def get(http: Http, path: str = "/x") -> None:
    await http.call("GET", path, route="GET /x")


async def failure(token: OAuthToken) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await token()
    assert SECRET not in str(caught.value)
    return caught.value


async def test_client_credentials_as_json_carry_the_audience(server: FakeServer) -> None:
    """WLL's call, with a secret that a form would have to escape."""
    token = server.token(as_json=True, extra={"audience": "wlloyalty.net"})
    assert await token() == {"Authorization": "Bearer t1"}
    request = server.token_requests[0]
    assert str(request.url) == "https://auth.example/oauth/token"
    assert request.headers["content-type"] == "application/json"
    assert orjson.loads(request.content) == {
        "grant_type": "client_credentials",
        "client_id": "us",
        "client_secret": SECRET,
        "audience": "wlloyalty.net",
    }


async def test_a_refresh_token_is_sent_as_a_form_and_rotated(
    server: FakeServer,
) -> None:
    server.more = {"expires_in": 100, "refresh_token": "second"}
    token = server.token(refresh_token=SecretStr("first"))
    await token()
    server.more = {"expires_in": 100}
    for _ in range(2):
        server.clock.move(100)
        await token()
    forms = [dict(parse_qsl(request.content.decode())) for request in server.token_requests]
    assert [form["refresh_token"] for form in forms] == ["first", "second", "second"]
    assert forms[0] == {
        "grant_type": "refresh_token",
        "refresh_token": "first",
        "client_id": "us",
        "client_secret": SECRET,
    }
    assert server.token_requests[0].headers["content-type"] == "application/x-www-form-urlencoded"


async def test_the_client_may_authenticate_in_a_header(server: FakeServer) -> None:
    await server.token(auth_method="client_secret_basic")()
    assert server.token_requests[0].headers["authorization"].startswith("Basic ")
    assert b"secret" not in server.token_requests[0].content


async def test_a_token_is_cached_for_its_lifetime_less_a_margin(server: FakeServer) -> None:
    http = server.http(server.token())
    await get(http)
    server.clock.move(LIFETIME - 61)
    await get(http)
    assert len(server.token_requests) == 1
    server.clock.move(1)
    await get(http)
    assert [call.headers["authorization"] for call in server.calls] == [
        "Bearer t1",
        "Bearer t1",
        "Bearer t2",
    ]


async def test_a_short_lifetime_is_used_for_nine_tenths(server: FakeServer) -> None:
    server.more = {"expires_in": 10}
    token = server.token()
    await token()
    server.clock.move(8.9)
    await token()
    assert len(server.token_requests) == 1
    server.clock.move(0.2)
    await token()
    assert len(server.token_requests) == 2


async def test_a_token_without_an_expiry_is_kept_until_rejected(server: FakeServer) -> None:
    server.more = {}
    http = server.http(server.token())
    await get(http)
    server.clock.move(10_000_000)
    await get(http)
    assert len(server.token_requests) == 1
    server.valid_tokens = {"t2"}
    await get(http)
    assert len(server.token_requests) == 2


async def test_concurrent_callers_share_one_token_request(server: FakeServer) -> None:
    http = server.http(server.token())
    await asyncio.gather(*(get(http) for _ in range(20)))
    assert len(server.token_requests) == 1
    server.valid_tokens = {"t2"}
    await asyncio.gather(*(get(http) for _ in range(20)))
    assert len(server.token_requests) == 2
    assert len(server.calls) == 20 + 40


async def test_a_rejected_token_is_renewed_and_the_request_retried_once(server: FakeServer) -> None:
    http = server.http(server.token())
    await get(http)
    server.valid_tokens = {"t2"}
    await get(http)
    assert [call.headers["authorization"][-2:] for call in server.calls] == ["t1", "t1", "t2"]


@pytest.mark.parametrize(("method", "ends_at"), [("POST", 1), ("POST", 2), ("GET", 0)])
async def test_a_lease_that_ends_while_a_token_is_fetched_changes_nothing_at_the_api(
    server: FakeServer, method: str, ends_at: int
) -> None:
    """Guarantee 12, also for the request that is repeated with another token. Reads go out."""
    server.valid_tokens = {"t2"}
    http = server.http(server.token(), lambda: len(server.token_requests) < ends_at)
    sent = http.call(method, "/x", route=f"{method} /x")
    if method == "GET":
        await sent
    else:
        with pytest.raises(RetryLater) as caught:
            await sent
        assert caught.value.problem is Problem.STORE_HELD
    assert len(server.calls) == (2 if method == "GET" else ends_at - 1)


async def test_a_server_that_rejects_every_token_blocks_after_few_token_requests(
    server: FakeServer,
) -> None:
    http = server.http(server.token())
    server.valid_tokens = set()
    for _ in range(10):
        with pytest.raises(Blocked) as caught:
            await get(http)
        assert (caught.value.problem, caught.value.scope) == (Problem.PLATFORM_KEY, "account")
        server.clock.move(20)
    assert len(server.token_requests) == 2
    server.clock.move(300)
    server.valid_tokens = {"t3"}
    await get(http)


@pytest.mark.parametrize(
    ("status", "body", "problem", "expected_text"),
    [
        (400, {"error": "invalid_grant"}, Problem.PLATFORM_KEY, "invalid_grant"),
        (401, {"error": "invalid_client"}, Problem.PLATFORM_KEY, "invalid_client"),
        (403, {"error": "unauthorized_client"}, Problem.PLATFORM_KEY, "unauthorized_client"),
        (404, {}, Problem.PLATFORM_TARGET, "HTTP 404"),
        (302, {}, Problem.PLATFORM_TARGET, "HTTP 302"),
    ],
)
async def test_a_rejected_client_blocks_the_account(
    server: FakeServer, status: int, body: dict[str, str], problem: Problem, expected_text: str
) -> None:
    server.token_answer = lambda: httpx.Response(status, json=body)
    found = await failure(server.token())
    assert isinstance(found, Blocked)
    assert (found.problem, found.scope) == (problem, "account")
    assert expected_text in found.detail
    # An adapter takes a 404 of the API for an unknown person: this is none.
    assert found.status is None


async def test_token_endpoint_responses_are_not_quoted(server: FakeServer) -> None:
    server.token_answer = lambda: httpx.Response(400, json={"error": "Ana Ruiz is unknown"})
    assert "Ana" not in str(await failure(server.token()))


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_failing_token_endpoint_is_a_wait(server: FakeServer, status: int) -> None:
    """A 500 too: the call that needed the token never left, so nothing can have been applied."""
    server.token_answer = lambda: httpx.Response(status, headers={"retry-after": "40"}, json={})
    assert isinstance(await failure(server.token()), RetryLater)


@pytest.mark.parametrize(
    "error",
    [httpx.ConnectError("no"), httpx.ConnectTimeout("no"), httpx.ReadTimeout("no")],
)
async def test_no_token_response_is_a_wait(server: FakeServer, error: Exception) -> None:
    def fail() -> httpx.Response:
        raise error

    server.token_answer = fail
    assert isinstance(await failure(server.token()), RetryLater)


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"access_token": 7}'])
async def test_a_response_without_a_token_is_a_wait(server: FakeServer, content: bytes) -> None:
    server.token_answer = lambda: httpx.Response(200, content=content)
    found = await failure(server.token())
    assert isinstance(found, RetryLater)
    assert found.problem is Problem.ANSWER_UNREADABLE


async def test_one_failed_token_request_fails_all_waiting_callers(server: FakeServer) -> None:
    server.token_answer = lambda: httpx.Response(429, headers={"retry-after": "40"})
    http = server.http(server.token())
    found = await asyncio.gather(*(get(http) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(one, RetryLater) and one.after == 40 for one in found)
    assert len(server.token_requests) == 1
    server.clock.move(39)
    with pytest.raises(RetryLater):
        await get(http)
    assert len(server.token_requests) == 1
    server.token_answer = None
    server.clock.move(1)
    await get(http)
    assert (len(server.token_requests), len(server.calls)) == (2, 1)


async def test_a_cancelled_caller_does_not_cancel_the_others(server: FakeServer) -> None:
    token = server.token()
    first, second = asyncio.ensure_future(token()), asyncio.ensure_future(token())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == {"Authorization": "Bearer t2"}


async def test_the_token_endpoint_is_not_called_without_tls(server: FakeServer) -> None:
    found = await failure(server.token("http://auth.example/oauth/token"))
    assert isinstance(found, Blocked)
    assert (found.problem, found.scope) == (Problem.TLS_REQUIRED, "account")
    assert server.token_requests == []


async def test_every_request_is_recorded_by_its_route(server: FakeServer) -> None:
    http = server.http(server.token(route="POST /oauth/token"))
    await get(http)
    server.valid_tokens = {"t2"}
    await get(http)
    assert [(call.route, call.status) for call in server.seen] == [
        ("POST /oauth/token", 200),
        ("GET /x", 200),
        ("GET /x", 401),
        ("POST /oauth/token", 200),
        ("GET /x", 200),
    ]


async def test_a_request_without_a_token_is_not_recorded_as_sent(server: FakeServer) -> None:
    server.token_answer = lambda: httpx.Response(503)
    with pytest.raises(RetryLater):
        await get(server.http(server.token()))
    assert [call.route for call in server.seen] == ["POST /oauth/token"]


async def test_a_token_may_be_sent_in_the_query_with_a_key_header(server: FakeServer) -> None:
    in_query = server.http(server.token(query="access_token"))
    await get(in_query)
    await get(in_query, "/x?a=1")
    assert [str(call.url) for call in server.calls] == [
        "https://api.example/x?access_token=t1",
        "https://api.example/x?a=1&access_token=t1",
    ]
    assert "authorization" not in server.calls[0].headers
    await get(server.http(server.token(extra_header=HeaderKey("X-Api-Key", SecretStr("key")))))
    assert server.calls[2].headers["x-api-key"] == "key"
    assert server.calls[2].headers["authorization"] == "Bearer t2"


async def test_no_secret_is_in_a_repr(server: FakeServer) -> None:
    token = server.token(
        refresh_token=SecretStr("first"), extra_header=HeaderKey("k", SecretStr("key"))
    )
    await token()
    shown = f"{token!r} {token}"
    assert not any(secret in shown for secret in (SECRET, "first", "t1", "us"))


async def test_a_closed_client_sends_nothing_and_says_so(server: FakeServer) -> None:
    """A reload closes the clients of the old connections, whose callers may still be waiting."""
    http = server.http(server.token())
    await http.aclose()
    with pytest.raises(RetryLater) as caught:
        await get(http)
    assert caught.value.problem is Problem.NOT_CONNECTED
    assert server.calls == []
