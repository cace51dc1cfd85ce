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

from connector.domain.errors import Blocked, DeliveryError, Problem, Wait
from connector.net.auth import HeaderKey, OAuthToken
from connector.net.http import Http, Seen
from connector.testing.fakes.clock import FakeClock

SECRET = "s3cr&t=%+ü/\\\"'"
LIFE = 86400


class FarEnd:
    """A token endpoint and an API that takes only the tokens it says."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.asked: list[httpx.Request] = []
        self.calls: list[httpx.Request] = []
        self.seen: list[Seen] = []
        self.good: set[str] | None = None
        self.token_answer: Callable[[], httpx.Response] | None = None
        self.more: dict[str, Any] = {"expires_in": LIFE, "token_type": "Bearer"}

    async def tokens(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        await asyncio.sleep(0)
        if self.token_answer is not None:
            return self.token_answer()
        return httpx.Response(200, json={"access_token": f"t{len(self.asked)}", **self.more})

    async def api(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request)
        await asyncio.sleep(0)
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = given or request.url.params.get("access_token", "")
        return httpx.Response(200 if self.good is None or given in self.good else 401, json={})

    def token(self, url: str = "https://auth.example/oauth/token", **more: Any) -> OAuthToken:
        transport = Http(
            url,
            vendor="platform",
            clock=self.clock,
            credential=lambda: {},
            seen=self.seen.append,
            http=httpx.AsyncClient(transport=httpx.MockTransport(self.tokens)),
        )
        options = {"client_id": "us", "client_secret": SecretStr(SECRET), **more}
        return OAuthToken(transport, clock=self.clock, **options)

    def http(self, token: OAuthToken) -> Http:
        return Http(
            "https://api.example",
            vendor="platform",
            clock=self.clock,
            credential=token,
            seen=self.seen.append,
            http=httpx.AsyncClient(transport=httpx.MockTransport(self.api)),
        )


@pytest.fixture
def far() -> FarEnd:
    return FarEnd()


async def get(http: Http, path: str = "/x") -> None:
    await http.call("GET", path, route="GET /x")


async def failure(token: OAuthToken) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await token()
    assert SECRET not in str(caught.value)
    return caught.value


async def test_client_credentials_as_json_carry_the_audience(far: FarEnd) -> None:
    """WLL's call, with a secret that a form would have to escape."""
    token = far.token(as_json=True, extra={"audience": "wlloyalty.net"})
    assert await token() == {"Authorization": "Bearer t1"}
    request = far.asked[0]
    assert str(request.url) == "https://auth.example/oauth/token"
    assert request.headers["content-type"] == "application/json"
    assert orjson.loads(request.content) == {
        "grant_type": "client_credentials",
        "client_id": "us",
        "client_secret": SECRET,
        "audience": "wlloyalty.net",
    }


async def test_a_refresh_token_is_sent_as_a_form_and_replaced_when_a_new_one_comes(
    far: FarEnd,
) -> None:
    far.more = {"expires_in": 100, "refresh_token": "second"}
    token = far.token(refresh_token=SecretStr("first"))
    await token()
    far.more = {"expires_in": 100}
    for _ in range(2):
        far.clock.move(100)
        await token()
    forms = [dict(parse_qsl(request.content.decode())) for request in far.asked]
    assert [form["refresh_token"] for form in forms] == ["first", "second", "second"]
    assert forms[0] == {
        "grant_type": "refresh_token",
        "refresh_token": "first",
        "client_id": "us",
        "client_secret": SECRET,
    }
    assert far.asked[0].headers["content-type"] == "application/x-www-form-urlencoded"


async def test_the_client_may_prove_itself_in_a_header(far: FarEnd) -> None:
    await far.token(auth_method="client_secret_basic")()
    assert far.asked[0].headers["authorization"].startswith("Basic ")
    assert b"secret" not in far.asked[0].content


async def test_a_token_is_kept_for_its_life_less_a_margin(far: FarEnd) -> None:
    http = far.http(far.token())
    await get(http)
    far.clock.move(LIFE - 61)
    await get(http)
    assert len(far.asked) == 1
    far.clock.move(1)
    await get(http)
    assert [call.headers["authorization"] for call in far.calls] == [
        "Bearer t1",
        "Bearer t1",
        "Bearer t2",
    ]


async def test_a_short_life_is_used_for_nine_tenths(far: FarEnd) -> None:
    far.more = {"expires_in": 10}
    token = far.token()
    await token()
    far.clock.move(8.9)
    await token()
    assert len(far.asked) == 1
    far.clock.move(0.2)
    await token()
    assert len(far.asked) == 2


async def test_a_token_without_an_end_is_kept_until_it_is_refused(far: FarEnd) -> None:
    far.more = {}
    http = far.http(far.token())
    await get(http)
    far.clock.move(10_000_000)
    await get(http)
    assert len(far.asked) == 1
    far.good = {"t2"}
    await get(http)
    assert len(far.asked) == 2


async def test_many_who_ask_at_once_make_one_token_call(far: FarEnd) -> None:
    http = far.http(far.token())
    await asyncio.gather(*(get(http) for _ in range(20)))
    assert len(far.asked) == 1
    far.good = {"t2"}
    await asyncio.gather(*(get(http) for _ in range(20)))
    assert len(far.asked) == 2
    assert len(far.calls) == 20 + 40


async def test_a_refused_token_is_renewed_and_the_call_tried_once_more(far: FarEnd) -> None:
    http = far.http(far.token())
    await get(http)
    far.good = {"t2"}
    await get(http)
    assert [call.headers["authorization"][-2:] for call in far.calls] == ["t1", "t1", "t2"]


async def test_a_far_end_that_refuses_every_token_blocks_and_costs_few_tokens(far: FarEnd) -> None:
    http = far.http(far.token())
    far.good = set()
    for _ in range(10):
        with pytest.raises(Blocked) as caught:
            await get(http)
        assert (caught.value.problem, caught.value.scope) == (Problem.PLATFORM_KEY, "account")
        far.clock.move(20)
    assert len(far.asked) == 2
    far.clock.move(300)
    far.good = {"t3"}
    await get(http)


@pytest.mark.parametrize(
    ("status", "body", "problem", "said"),
    [
        (400, {"error": "invalid_grant"}, Problem.PLATFORM_KEY, "invalid_grant"),
        (401, {"error": "invalid_client"}, Problem.PLATFORM_KEY, "invalid_client"),
        (403, {"error": "unauthorized_client"}, Problem.PLATFORM_KEY, "unauthorized_client"),
        (404, {}, Problem.PLATFORM_TARGET, "HTTP 404"),
        (302, {}, Problem.PLATFORM_TARGET, "HTTP 302"),
    ],
)
async def test_a_refused_client_blocks_the_account(
    far: FarEnd, status: int, body: dict[str, str], problem: Problem, said: str
) -> None:
    far.token_answer = lambda: httpx.Response(status, json=body)
    found = await failure(far.token())
    assert isinstance(found, Blocked)
    assert (found.problem, found.scope) == (problem, "account")
    assert said in found.detail
    # An adapter takes a 404 of the API for an unknown person: this is none.
    assert found.status is None


async def test_what_the_token_endpoint_says_is_not_quoted(far: FarEnd) -> None:
    far.token_answer = lambda: httpx.Response(400, json={"error": "Ana Ruiz is unknown"})
    assert "Ana" not in str(await failure(far.token()))


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_endpoint_in_trouble_is_waited_for(far: FarEnd, status: int) -> None:
    """A 500 too: the call that needed the token never left, so nothing can have been applied."""
    far.token_answer = lambda: httpx.Response(status, headers={"retry-after": "40"}, json={})
    assert isinstance(await failure(far.token()), Wait)


@pytest.mark.parametrize(
    "error",
    [httpx.ConnectError("no"), httpx.ConnectTimeout("no"), httpx.ReadTimeout("no")],
)
async def test_no_answer_is_waited_for(far: FarEnd, error: Exception) -> None:
    def fail() -> httpx.Response:
        raise error

    far.token_answer = fail
    assert isinstance(await failure(far.token()), Wait)


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"access_token": 7}'])
async def test_an_answer_without_a_token_is_waited_for(far: FarEnd, content: bytes) -> None:
    far.token_answer = lambda: httpx.Response(200, content=content)
    found = await failure(far.token())
    assert isinstance(found, Wait)
    assert found.problem is Problem.ANSWER_UNREADABLE


async def test_one_failed_token_call_answers_for_all_who_wait(far: FarEnd) -> None:
    far.token_answer = lambda: httpx.Response(429, headers={"retry-after": "40"})
    http = far.http(far.token())
    found = await asyncio.gather(*(get(http) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(one, Wait) and one.after == 40 for one in found)
    assert len(far.asked) == 1
    far.clock.move(39)
    with pytest.raises(Wait):
        await get(http)
    assert len(far.asked) == 1
    far.token_answer = None
    far.clock.move(1)
    await get(http)
    assert (len(far.asked), len(far.calls)) == (2, 1)


async def test_who_gives_up_does_not_stop_the_others(far: FarEnd) -> None:
    token = far.token()
    first, second = asyncio.ensure_future(token()), asyncio.ensure_future(token())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == {"Authorization": "Bearer t2"}


async def test_the_token_endpoint_is_not_called_without_tls(far: FarEnd) -> None:
    found = await failure(far.token("http://auth.example/oauth/token"))
    assert isinstance(found, Blocked)
    assert (found.problem, found.scope) == (Problem.TLS_REQUIRED, "account")
    assert far.asked == []


async def test_every_request_is_seen_by_its_route(far: FarEnd) -> None:
    http = far.http(far.token(route="POST /oauth/token"))
    await get(http)
    far.good = {"t2"}
    await get(http)
    assert [(call.route, call.status) for call in far.seen] == [
        ("POST /oauth/token", 200),
        ("GET /x", 200),
        ("GET /x", 401),
        ("POST /oauth/token", 200),
        ("GET /x", 200),
    ]


async def test_a_call_whose_token_cannot_be_had_is_not_seen_as_sent(far: FarEnd) -> None:
    far.token_answer = lambda: httpx.Response(503)
    with pytest.raises(Wait):
        await get(far.http(far.token()))
    assert [call.route for call in far.seen] == ["POST /oauth/token"]


async def test_a_token_may_travel_in_the_address_and_a_key_beside_it(far: FarEnd) -> None:
    in_query = far.http(far.token(query="access_token"))
    await get(in_query)
    await get(in_query, "/x?a=1")
    assert [str(call.url) for call in far.calls] == [
        "https://api.example/x?access_token=t1",
        "https://api.example/x?a=1&access_token=t1",
    ]
    assert "authorization" not in far.calls[0].headers
    await get(far.http(far.token(beside=HeaderKey("X-Api-Key", SecretStr("key")))))
    assert far.calls[2].headers["x-api-key"] == "key"
    assert far.calls[2].headers["authorization"] == "Bearer t2"


async def test_nothing_secret_is_in_a_repr(far: FarEnd) -> None:
    token = far.token(refresh_token=SecretStr("first"), beside=HeaderKey("k", SecretStr("key")))
    await token()
    shown = f"{token!r} {token}"
    assert not any(secret in shown for secret in (SECRET, "first", "t1", "us"))
