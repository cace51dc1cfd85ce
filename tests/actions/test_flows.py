"""A flow call is accepted once it is authorized, offered, parsed and committed.

Every failure that a repeat can help is 503: Klaviyo skips a call for good after any other status.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from connector.domain.actions import Action, ActionRequest, Caps
from connector.domain.errors import Malformed, Problem, StoreError, Unauthorised
from connector.service import ConnectionRuntime
from connector.testing.fakes.lease import FakeLease
from connector.web.flows import FlowApp
from connector.web.throttle import Network, Throttle

from .conftest import SECRET, Rig

INCREASE = "/flows/acme/balance/increase"
VALID_HEADERS = {"api-key": SECRET}
BODY = [{"email": "ana@example.com", "amount": 100, "reason": "Welcome"}]


class FlowServer:
    """The flow endpoints of a daemon whose lane does not run."""

    def __init__(self, rig: Rig, *, trusted_proxies: Sequence[Network] = ()) -> None:
        self.rig = rig
        self.peer = "203.0.113.7"
        self.runtimes: dict[str, ConnectionRuntime] = {}
        self.flows = FlowApp(
            self.runtimes.get, rig.clock, rig.metrics, trusted_proxies=trusted_proxies
        )

    def connect(self, name: str = "acme", *, enabled: bool = True) -> ConnectionRuntime:
        runtime = ConnectionRuntime(
            name=name,
            title="Fake",
            enabled=enabled,
            mapping="v1",
            account=None,
            lease=FakeLease(),
            events=self.rig.dispatcher,
            flow_endpoint=self.rig.endpoint,
        )
        self.runtimes[name] = runtime
        return runtime

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["client"] = (self.peer, 4711)
        await self.flows(scope, receive, send)

    def rejected(self) -> dict[str, float]:
        [family] = self.rig.metrics.rejected.collect()
        return {s.labels["reason"]: s.value for s in family.samples if s.value}


@pytest.fixture
async def server(make_rig: Callable[..., Rig]) -> FlowServer:
    rig = make_rig(caps=Caps(per_person=2))
    await rig.start()
    await rig.dispatcher.stop(0.0)
    made = FlowServer(rig)
    made.connect()
    return made


@pytest.fixture
async def http(server: FlowServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(server.app), base_url="http://connector.test"
    ) as caller:
        yield caller


# ── accepted ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_call_is_answered_once_it_is_stored(
    server: FlowServer, http: httpx.AsyncClient
) -> None:
    answer = await http.post(INCREASE, json=BODY, headers=VALID_HEADERS)
    assert answer.status_code == 202
    assert answer.json() == {"accepted": 1, "duplicates": 0, "held": 0}
    again = await http.post(INCREASE, json=BODY[0], headers=VALID_HEADERS)
    assert again.json() == {"accepted": 0, "duplicates": 1, "held": 0}
    assert await server.rig.states() == ["waiting"]


async def test_an_address_may_end_with_a_slash(server: FlowServer, http: httpx.AsyncClient) -> None:
    """Klaviyo skips a call for good after a 404, so a slash too many must not lose points."""
    for path in (INCREASE, f"{INCREASE}/"):
        answer = await http.post(path, json=BODY, headers=VALID_HEADERS)
        assert answer.status_code == 202
    assert answer.json() == {"accepted": 0, "duplicates": 1, "held": 0}


@pytest.mark.parametrize(
    "headers",
    [
        {"api-key": SECRET},
        {"api-key": "next-secret"},
        {"authorization": f"Bearer {SECRET}"},
        {"authorization": f"bearer {SECRET}", "api-key": "wrong"},
    ],
)
async def test_any_current_secret_authorizes(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    assert (await http.post(INCREASE, json=BODY, headers=headers)).status_code == 202


async def test_actions_held_by_a_cap_are_counted_as_held(
    server: FlowServer, http: httpx.AsyncClient
) -> None:
    items = [BODY[0] | {"idempotency_key": str(n)} for n in range(3)]
    answer = await http.post(INCREASE, json=items, headers=VALID_HEADERS)
    assert answer.json() == {"accepted": 2, "duplicates": 0, "held": 1}
    metrics = server.rig.metrics.render().decode()
    assert 'actions_total{action="increase",connection="acme",outcome="held"} 1.0' in metrics


async def test_three_concurrent_duplicates_have_one_effect(
    server: FlowServer, http: httpx.AsyncClient
) -> None:
    answers = await asyncio.gather(
        *(http.post(INCREASE, json=BODY, headers=VALID_HEADERS) for _ in range(3))
    )
    assert {a.status_code for a in answers} == {202}
    assert sorted(a.json()["accepted"] for a in answers) == [0, 0, 1]
    assert len(await server.rig.all_actions()) == 1


async def test_a_paused_connection_accepts(server: FlowServer, http: httpx.AsyncClient) -> None:
    await server.rig.dispatcher.pause()
    assert (await http.post(INCREASE, json=BODY, headers=VALID_HEADERS)).status_code == 202


# ── rejected ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"api-key": ""},
        {"api-key": SECRET + " x"},
        {"api-key": SECRET.upper()},
        {"authorization": SECRET},
        {"authorization": "Basic " + SECRET},
        {"api-key": "ÿ"},
    ],
)
async def test_without_a_good_secret_it_is_401(
    server: FlowServer, http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    raw = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    answer = await http.post(INCREASE, json=BODY, headers=raw)
    assert (answer.status_code, answer.json()["problem"]) == (401, "A401")
    assert server.rejected() == {"flow_secret": 1}
    assert not await server.rig.all_actions()


@pytest.mark.parametrize("secrets", [[], [""]])
async def test_a_connection_without_secrets_rejects_every_request(
    make_rig: Callable[..., Rig], secrets: list[str]
) -> None:
    rig = make_rig(secrets=secrets)
    await rig.start()
    for headers in ({}, {"api-key": ""}, {"authorization": "Bearer "}, VALID_HEADERS):
        with pytest.raises(Unauthorised):
            rig.endpoint.authorize(headers)


async def test_an_unreadable_call_is_400_naming_item_and_field(
    server: FlowServer, http: httpx.AsyncClient
) -> None:
    bad = [*BODY, BODY[0] | {"amount": "many"}]
    answer = await http.post(INCREASE, json=bad, headers=VALID_HEADERS)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("item 2: amount: ")
    assert answer.json()["problem"] == "A400"
    assert not await server.rig.all_actions()


async def test_a_key_with_different_content_is_409(
    server: FlowServer, http: httpx.AsyncClient
) -> None:
    headers = VALID_HEADERS | {"idempotency-key": "k"}
    await http.post(INCREASE, json=BODY, headers=headers)
    answer = await http.post(INCREASE, json=[BODY[0] | {"amount": 1}], headers=headers)
    assert (answer.status_code, answer.json()["problem"]) == (409, "A409")
    assert server.rejected() == {"conflict": 1}


async def test_a_route_that_is_not_offered_is_404_naming_those_that_are(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.post("/flows/acme/balance/double", json=BODY, headers=VALID_HEADERS)
    assert (answer.status_code, answer.json()["problem"]) == (404, "A400")
    for route in ("balance/increase", "balance/decrease", "points/adjust", "push"):
        assert f"/flows/acme/{route}" in answer.json()["detail"]
    assert (
        await http.post("/flows/unknown/push", json={}, headers=VALID_HEADERS)
    ).status_code == 404


async def test_only_post_is_accepted_and_the_body_size_is_bounded(
    server: FlowServer, http: httpx.AsyncClient
) -> None:
    assert (await http.get(INCREASE, headers=VALID_HEADERS)).status_code == 405
    big = await http.post(INCREASE, content=b" " * 1_048_577, headers=VALID_HEADERS)
    assert (big.status_code, server.rejected()) == (413, {"too_large": 1})


async def test_an_endpoint_rejects_a_caller_without_the_secret_by_itself(rig: Rig) -> None:
    with pytest.raises(Unauthorised):
        await rig.endpoint.receive("push", {}, b"{}")
    with pytest.raises(Malformed) as caught:
        await rig.endpoint.receive("balance/double", VALID_HEADERS, b"{}")
    assert caught.value.problem is Problem.NOT_OFFERED
    assert not await rig.all_actions()


async def test_without_a_lane_no_route_is_offered_and_nothing_is_stored(rig: Rig) -> None:
    endpoint = rig.make_endpoint(lane=None)
    assert endpoint.routes == ()
    with pytest.raises(ValueError, match="takes no actions"):
        await endpoint.submit(
            "segment", [ActionRequest(Action("push", customer="c7"), "push", "k")]
        )
    with pytest.raises(Malformed):
        await endpoint.receive("push", VALID_HEADERS, b'{"customer_id":"c7","message":"Hi"}')


# ── failures that a repeat can help ───────────────────────────────────────────────────────────────


async def disabled(server: FlowServer) -> None:
    server.connect(enabled=False)


async def module_off(server: FlowServer) -> None:
    server.rig.endpoint.enabled = False


async def disk_low(server: FlowServer) -> None:
    server.rig.intake.closed_by = Problem.DISK_LOW


async def broken(server: FlowServer) -> None:
    server.rig.database.error = StoreError(Problem.STORE_UNAVAILABLE, "ana@example.com")


async def unexpected(server: FlowServer) -> None:
    server.rig.database.error = RuntimeError("a bug")


@pytest.mark.parametrize("make_failure", [disabled, module_off, disk_low, broken, unexpected])
async def test_an_internal_failure_is_503_with_retry_after(
    server: FlowServer, http: httpx.AsyncClient, make_failure: Callable[[FlowServer], Any]
) -> None:
    await make_failure(server)
    answer = await http.post(INCREASE, json=BODY, headers=VALID_HEADERS)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "ana@" not in answer.text
    wrong = await http.post(INCREASE, json=BODY, headers={"api-key": "wrong"})
    assert wrong.status_code == 401


# ── throttled ─────────────────────────────────────────────────────────────────────────────────────


async def _wrong(http: httpx.AsyncClient, **headers: str) -> int:
    headers |= {"api-key": "wrong"}
    return (await http.post(INCREASE, json=BODY, headers=headers)).status_code


async def test_repeated_failures_are_throttled_by_ip_address(
    server: FlowServer, http: httpx.AsyncClient
) -> None:
    assert [await _wrong(http) for _ in range(20)] == [401] * 20
    refused = await http.post(INCREASE, json=BODY, headers={"api-key": "wrong"})
    assert (refused.status_code, refused.json()["problem"]) == (429, "A429")
    assert refused.headers["retry-after"] == "1"
    server.peer = "203.0.113.8"
    assert await _wrong(http) == 401
    server.peer = "203.0.113.7"
    server.rig.clock.move(1.0)
    assert await _wrong(http) == 401
    assert await _wrong(http) == 429
    assert server.rejected() == {"flow_secret": 22, "throttled": 2}


async def test_the_right_secret_is_accepted_however_many_wrong_ones_its_address_sent(
    server: FlowServer, http: httpx.AsyncClient
) -> None:
    """Klaviyo calls for many accounts from one address, and so does every proxy."""
    assert [await _wrong(http) for _ in range(30)][-1] == 429
    assert (await http.post(INCREASE, json=BODY, headers=VALID_HEADERS)).status_code == 202
    assert await _wrong(http) == 429


async def test_behind_a_trusted_proxy_the_caller_is_the_last_forwarded_address(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig()
    await rig.start()
    server = FlowServer(rig, trusted_proxies=[ip_network("10.1.0.0/16")])
    server.connect()
    server.peer = "10.1.2.3"
    transport = httpx.ASGITransport(server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://connector.test") as http:
        for _ in range(20):
            await _wrong(http, **{"x-forwarded-for": "198.51.100.1, 203.0.113.9"})
        assert await _wrong(http, **{"x-forwarded-for": "203.0.113.9"}) == 429
        assert await _wrong(http, **{"x-forwarded-for": "203.0.113.9, 198.51.100.1"}) == 401
        server.peer = "203.0.113.9"
        assert await _wrong(http, **{"x-forwarded-for": "198.51.100.1"}) == 429


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "fd00::1"])
async def test_no_peer_evades_the_throttle_by_a_header_unless_it_is_a_configured_proxy(
    server: FlowServer, http: httpx.AsyncClient, peer: str
) -> None:
    server.peer = peer
    statuses = [await _wrong(http, **{"x-forwarded-for": f"203.0.113.{n}"}) for n in range(25)]
    assert statuses == [401] * 20 + [429] * 5


async def test_an_ipv6_network_is_one_caller(server: FlowServer, http: httpx.AsyncClient) -> None:
    for number in range(20):
        server.peer = f"2001:db8::{number:x}"
        await _wrong(http)
    server.peer = "2001:db8::ffff"
    assert await _wrong(http) == 429
    server.peer = "2001:db8:0:1::1"
    assert await _wrong(http) == 401


async def test_the_number_of_tracked_addresses_is_bounded(rig: Rig) -> None:
    throttle = Throttle(rig.clock, burst=1)
    for number in range(5_000):
        throttle.failed(str(number))
    assert sum(throttle.wait(str(number)) > 0 for number in range(5_000)) == 1_000
    assert throttle.wait("4999") > 0
