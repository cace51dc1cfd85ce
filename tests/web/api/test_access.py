"""Who may use the API, from where, and as what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from pydantic import SecretStr
from starlette.requests import Request

from connector.config.models import Console
from connector.runtime.encryption import Seal
from connector.testing.fakes.clock import FakeClock
from connector.web.access import SESSION_COOKIE, Access, Throttled
from connector.web.sessions import Sessions

from .conftest import ApiHarness

STATUS, RETRY = "/api/v1/status", "/api/v1/dead-letters/retry"
MARKED_AS_PROXIED = [
    {"x-forwarded-for": "203.0.113.9"},
    {"x-forwarded-host": "example.com"},
    {"X-Forwarded-Port": "443"},
    {"x-forwarded-server": "proxy"},
    {"forwarded": "for=203.0.113.9"},
    {"x-real-ip": "203.0.113.9"},
    {"via": "1.1 proxy"},
    {"host": "connector.example.com"},
    {"host": "127.0.0.1.example.com"},
]


async def test_without_a_password_this_machine_is_the_operator(
    make_api: Callable[..., Any],
) -> None:
    harness: ApiHarness = await make_api(Console())
    async with harness.client() as http:
        assert (await http.get(STATUS)).status_code == 200
        assert (await http.post(RETRY, json={"ids": [1]})).status_code == 200


@pytest.mark.parametrize("headers", MARKED_AS_PROXIED)
async def test_without_a_password_everyone_else_is_refused(
    make_api: Callable[..., Any], headers: dict[str, str]
) -> None:
    harness: ApiHarness = await make_api(Console())
    async with harness.client(headers=headers) as http:
        answer = await http.get(STATUS)
    assert answer.status_code == 403
    assert "set [console] password" in answer.json()["detail"]


async def test_without_a_password_another_machine_is_refused(make_api: Callable[..., Any]) -> None:
    harness: ApiHarness = await make_api(Console())
    async with harness.client("10.0.0.7") as http:
        assert (await http.get(STATUS)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
    ],
)
async def test_a_page_of_another_origin_changes_nothing(
    make_api: Callable[..., Any], headers: dict[str, str]
) -> None:
    harness: ApiHarness = await make_api(Console())
    async with harness.client(headers=headers) as http:
        answer = await http.post(RETRY, json={"ids": [1]})
    assert answer.status_code == 403
    assert "another origin" in answer.json()["detail"]


async def test_a_token_has_the_role_that_its_entry_gives(
    operator: httpx.AsyncClient, viewer: httpx.AsyncClient
) -> None:
    assert (await viewer.get(STATUS)).status_code == 200
    assert (await operator.post(RETRY, json={"ids": [1]})).status_code == 200
    answer = await viewer.post(RETRY, json={"ids": [1]})
    assert answer.status_code == 403
    assert "a viewer cannot change anything" in answer.json()["detail"]
    found = await viewer.post("/api/v1/people/find", json={"email": "ana@example.com"})
    assert "or see personal data" in found.json()["detail"]


async def test_a_wrong_token_is_refused_also_on_this_machine(harness: ApiHarness) -> None:
    async with harness.client(headers={"authorization": "Bearer wrong"}) as http:
        answer = await http.get(STATUS)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


async def test_with_a_password_this_machine_signs_in_as_well(harness: ApiHarness) -> None:
    async with harness.client() as http:
        assert (await http.get(STATUS)).status_code == 401


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────


def access(clock: FakeClock, console: Console, *keys: str) -> Access:
    return Access(
        lambda: console, clock, Sessions(Seal(clock, list(map(SecretStr, keys)), lifetime=60))
    )


def request(cookie: str = "", peer: str = "203.0.113.9") -> Request:
    headers = [(b"cookie", f"{SESSION_COOKIE}={cookie}".encode())] if cookie else []
    return Request({"type": "http", "headers": headers, "client": (peer, 1)})


@pytest.mark.parametrize(
    ("password", "role"), [("open", "operator"), ("look", "viewer"), ("hashed", "operator")]
)
def test_the_password_decides_the_role(password: str, role: str) -> None:
    hashed = PasswordHasher(time_cost=1, memory_cost=64).hash("hashed")
    guard = access(FakeClock(), Console(password=["open", hashed], viewer_password=["look"]))
    signed_in = guard.sign_in(request(), password)
    assert signed_in
    assert guard.identify(request(signed_in[1])).role == role


def test_a_session_ends_by_time_and_with_its_password() -> None:
    clock, key = FakeClock(), "A" * 43 + "="
    guard = access(clock, Console(password=["open"]), key)
    signed_in = guard.sign_in(request(), "open")
    assert signed_in
    cookie = signed_in[1]
    # Another replica, and this one after a restart, know the session by the key alone.
    assert access(clock, Console(password=["open"]), key).identify(request(cookie))
    for other in (
        access(clock, Console(password=["other"]), key),
        access(clock, Console(password=["open"])),
    ):
        with pytest.raises(Exception, match="sign in"):
            other.identify(request(cookie))
    clock.move(61.0)
    with pytest.raises(Exception, match="sign in"):
        guard.identify(request(cookie))


def test_a_session_ends_when_its_password_becomes_that_of_a_viewer() -> None:
    clock, key = FakeClock(), "A" * 43 + "="
    signed_in = access(clock, Console(password=["shared"]), key).sign_in(request(), "shared")
    assert signed_in
    lowered = access(clock, Console(password=["new"], viewer_password=["shared"]), key)
    with pytest.raises(Exception, match="sign in"):
        lowered.identify(request(signed_in[1]))


def test_wrong_passwords_are_throttled_by_address() -> None:
    clock = FakeClock()
    guard = access(clock, Console(password=["open"]))
    for _ in range(5):
        assert guard.sign_in(request(), "wrong") is None
    with pytest.raises(Throttled):
        guard.sign_in(request(), "open")
    assert guard.sign_in(request(peer="203.0.113.10"), "open")
    clock.move(60.0)
    assert guard.sign_in(request(), "open")
