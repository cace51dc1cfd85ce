"""A flow's call is taken when it is proved, offered, readable and committed. Whatever is our
trouble is 503, for Klaviyo skips a call for good after any other refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from connector.domain.actions import (
    Caps,
)
from connector.domain.errors import Problem, StoreError
from connector.service import Line
from connector.web.flows import Flows
from connector.web.server import application
from connector.web.throttle import Throttle

from .conftest import SECRET, Rig

INCREASE = "/flows/acme/balance/increase"
GOOD = {"api-key": SECRET}
BODY = [{"email": "ana@example.com", "amount": 100, "reason": "Welcome"}]


class Door:
    """The doors of a daemon whose lane does not run."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.closed: Problem | None = None
        self.peer = "203.0.113.7"
        self.lines: dict[str, Line] = {}
        self.flows = Flows(self.lines.get, rig.clock, rig.metrics, closed=lambda: self.closed)

    def connect(self, name: str = "acme", *, enabled: bool = True) -> Line:
        line = Line(name, "Fake", enabled, "v1", None, [], [])
        line.flows = self.rig.door
        self.lines[name] = line
        return line

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["client"] = (self.peer, 4711)
        health: Any = None
        if scope["path"].startswith("/flows/"):
            await self.flows(scope, receive, send)
        else:
            await application(None, health, admin=False)(scope, receive, send)

    def refused(self) -> dict[str, float]:
        [family] = self.rig.metrics.rejected.collect()
        return {s.labels["reason"]: s.value for s in family.samples if s.value}


@pytest.fixture
async def door(make_rig: Callable[..., Rig]) -> Door:
    rig = make_rig(caps=Caps(per_person=2))
    await rig.start()
    rig.running.cancel()
    made = Door(rig)
    made.connect()
    return made


@pytest.fixture
async def http(door: Door) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(door.app), base_url="http://connector.test"
    ) as caller:
        yield caller


# ── taken ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_call_is_answered_once_it_is_stored(door: Door, http: httpx.AsyncClient) -> None:
    answer = await http.post(INCREASE, json=BODY, headers=GOOD)
    assert answer.status_code == 202
    assert answer.json() == {"accepted": 1, "duplicates": 0, "held": 0}
    again = await http.post(INCREASE, json=BODY[0], headers=GOOD)
    assert again.json() == {"accepted": 0, "duplicates": 1, "held": 0}
    assert await door.rig.states() == ["waiting"]


@pytest.mark.parametrize(
    "headers",
    [
        {"api-key": SECRET},
        {"api-key": "next-secret"},
        {"authorization": f"Bearer {SECRET}"},
        {"authorization": f"bearer {SECRET}", "api-key": "wrong"},
    ],
)
async def test_any_secret_in_force_lets_in(
    http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    assert (await http.post(INCREASE, json=BODY, headers=headers)).status_code == 202


async def test_what_a_cap_holds_is_counted_as_held(door: Door, http: httpx.AsyncClient) -> None:
    items = [BODY[0] | {"idempotency_key": str(n)} for n in range(3)]
    answer = await http.post(INCREASE, json=items, headers=GOOD)
    assert answer.json() == {"accepted": 2, "duplicates": 0, "held": 1}
    said = door.rig.metrics.render().decode()
    assert 'actions_total{action="increase",connection="acme",outcome="held"} 1.0' in said


async def test_three_at_the_same_instant_have_one_effect(
    door: Door, http: httpx.AsyncClient
) -> None:
    answers = await asyncio.gather(
        *(http.post(INCREASE, json=BODY, headers=GOOD) for _ in range(3))
    )
    assert {a.status_code for a in answers} == {202}
    assert sorted(a.json()["accepted"] for a in answers) == [0, 0, 1]
    assert len(await door.rig.deeds()) == 1


async def test_a_paused_connection_accepts(door: Door, http: httpx.AsyncClient) -> None:
    await door.rig.dispatcher.pause()
    assert (await http.post(INCREASE, json=BODY, headers=GOOD)).status_code == 202


# ── refused ──────────────────────────────────────────────────────────────────────────────────────


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
    door: Door, http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    raw = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    answer = await http.post(INCREASE, json=BODY, headers=raw)
    assert (answer.status_code, answer.json()["problem"]) == (401, "A401")
    assert door.refused() == {"flow_secret": 1}
    assert not await door.rig.deeds()


@pytest.mark.parametrize("secrets", [[], [""]])
async def test_a_connection_without_secrets_lets_nobody_in(
    make_rig: Callable[..., Rig], secrets: list[str]
) -> None:
    rig = make_rig(secrets=secrets)
    await rig.start()
    for headers in ({}, {"api-key": ""}, {"authorization": "Bearer "}, GOOD):
        assert not rig.door.admits(headers)


async def test_an_unreadable_call_is_400_naming_item_and_field(
    door: Door, http: httpx.AsyncClient
) -> None:
    bad = [*BODY, BODY[0] | {"amount": "many"}]
    answer = await http.post(INCREASE, json=bad, headers=GOOD)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("item 2: amount: ")
    assert answer.json()["problem"] == "A400"
    assert not await door.rig.deeds()


async def test_a_key_with_other_content_is_409(door: Door, http: httpx.AsyncClient) -> None:
    headers = GOOD | {"idempotency-key": "k"}
    await http.post(INCREASE, json=BODY, headers=headers)
    answer = await http.post(INCREASE, json=[BODY[0] | {"amount": 1}], headers=headers)
    assert (answer.status_code, answer.json()["problem"]) == (409, "A409")
    assert door.refused() == {"conflict": 1}


async def test_a_route_that_is_not_offered_is_404_naming_those_that_are(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.post("/flows/acme/balance/double", json=BODY, headers=GOOD)
    assert answer.status_code == 404
    for route in ("balance/increase", "balance/decrease", "points/adjust", "push"):
        assert f"/flows/acme/{route}" in answer.json()["detail"]
    assert (await http.post("/flows/nobody/push", json={}, headers=GOOD)).status_code == 404


async def test_only_posts_are_calls_and_a_body_is_bounded(
    door: Door, http: httpx.AsyncClient
) -> None:
    assert (await http.get(INCREASE, headers=GOOD)).status_code == 405
    big = await http.post(INCREASE, content=b" " * 1_048_577, headers=GOOD)
    assert (big.status_code, door.refused()) == (413, {"too_large": 1})


# ── our trouble ──────────────────────────────────────────────────────────────────────────────────


async def disabled(door: Door) -> None:
    door.connect(enabled=False)


async def module_off(door: Door) -> None:
    door.rig.door.on = False


async def disk_low(door: Door) -> None:
    door.closed = Problem.DISK_LOW


async def broken(door: Door) -> None:
    async def fail(work: Any) -> Any:
        raise StoreError(Problem.STORE_UNAVAILABLE, "ana@example.com")

    door.rig.database.write = fail  # type: ignore[method-assign]


async def unexpected(door: Door) -> None:
    async def fail(work: Any) -> Any:
        raise RuntimeError("ours")

    door.rig.database.write = fail  # type: ignore[method-assign]


@pytest.mark.parametrize("trouble", [disabled, module_off, disk_low, broken, unexpected])
async def test_our_trouble_is_503_with_a_time_to_come_back(
    door: Door, http: httpx.AsyncClient, trouble: Callable[[Door], Any]
) -> None:
    await trouble(door)
    answer = await http.post(INCREASE, json=BODY, headers=GOOD)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "ana@" not in answer.text
    wrong = await http.post(INCREASE, json=BODY, headers={"api-key": "wrong"})
    assert wrong.status_code == 401


# ── throttled ────────────────────────────────────────────────────────────────────────────────────


async def _wrong(http: httpx.AsyncClient, **headers: str) -> int:
    headers |= {"api-key": "wrong"}
    return (await http.post(INCREASE, json=BODY, headers=headers)).status_code


async def test_many_failures_are_throttled_by_address(door: Door, http: httpx.AsyncClient) -> None:
    assert [await _wrong(http) for _ in range(21)] == [401] * 20 + [429]
    held = await http.post(INCREASE, json=BODY, headers=GOOD)
    assert (held.status_code, held.json()["problem"]) == (429, "A429")
    assert held.headers["retry-after"] == "1"
    door.peer = "203.0.113.8"
    assert (await http.post(INCREASE, json=BODY, headers=GOOD)).status_code == 202
    door.peer = "203.0.113.7"
    door.rig.clock.move(1.0)
    assert (await http.post(INCREASE, json=BODY, headers=GOOD)).status_code == 202
    assert await _wrong(http) == 401
    assert await _wrong(http) == 429
    assert door.refused() == {"flow_secret": 21, "throttled": 3}


async def test_behind_our_proxy_the_caller_is_whom_it_names_last(
    door: Door, http: httpx.AsyncClient
) -> None:
    door.peer = "127.0.0.1"
    for _ in range(20):
        await _wrong(http, **{"x-forwarded-for": "198.51.100.1, 203.0.113.9"})
    assert await _wrong(http, **{"x-forwarded-for": "203.0.113.9"}) == 429
    assert await _wrong(http, **{"x-forwarded-for": "203.0.113.9, 198.51.100.1"}) == 401
    door.peer = "203.0.113.9"
    assert await _wrong(http, **{"x-forwarded-for": "198.51.100.1"}) == 429


async def test_an_ipv6_network_is_one_caller(door: Door, http: httpx.AsyncClient) -> None:
    for number in range(20):
        door.peer = f"2001:db8::{number:x}"
        await _wrong(http)
    door.peer = "2001:db8::ffff"
    assert await _wrong(http) == 429
    door.peer = "2001:db8:0:1::1"
    assert await _wrong(http) == 401


async def test_only_so_many_addresses_are_remembered(rig: Rig) -> None:
    throttle = Throttle(rig.clock, burst=1)
    for number in range(5_000):
        throttle.failed(str(number))
    assert len(throttle._failures) <= 1_000
    assert throttle.wait("4999") > 0
    assert throttle.wait("0") == 0
