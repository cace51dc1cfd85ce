"""A webhook is taken only when it is proved, readable and committed; every refusal says why."""

from __future__ import annotations

import hmac
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from connector.domain.errors import Problem, StoreError
from connector.domain.records import (
    Page,
    Record,
)
from connector.sandbox import Traffic
from connector.web.wire import MAX_BODY

from .conftest import SECRET, Door

ACME = "/webhooks/acme"
ADDRESS = "ana@example.com"


def named(headers: dict[str, str], value: str | None) -> dict[str, str]:
    """The headers with another signature, or without any."""
    rest = {k: v for k, v in headers.items() if k != "x-jericommerce-hmac-sha256"}
    return rest | ({"x-jericommerce-hmac-sha256": value} if value is not None else {})


def signed(body: bytes) -> dict[str, str]:
    """The headers of somebody who knows the secret, whatever the body holds."""
    return {
        "x-jericommerce-event-type": "Balance changed",
        "x-jericommerce-hmac-sha256": hmac.digest(SECRET.encode(), body, "sha256").hex(),
    }


# ── taken ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_proved_webhook_is_stored_and_answered_202_with_counts_only(
    door: Door, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    answer = await http.post(ACME, content=body, headers=headers)
    assert (answer.status_code, answer.content) == (202, b'{"accepted":1,"duplicates":0}')
    assert answer.headers["content-type"] == "application/json"
    [row] = door.store.rows.values()
    assert row.record.unique_id == f"jericommerce:{json.loads(body)['id']}"
    assert door.arrived == [door.lane.id]


async def test_a_redelivery_is_answered_202_as_a_duplicate_and_stored_once(
    door: Door, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    await http.post(ACME, content=body, headers=headers)
    again = await http.post(ACME, content=body, headers=headers)
    assert (again.status_code, again.content) == (202, b'{"accepted":0,"duplicates":1}')
    assert len(door.store.rows) == 1
    assert not door.refused()


async def test_a_secret_in_the_address_does_not_stand_for_a_signature(
    door: Door, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    taken = await http.post(f"{ACME}/anything", content=body, headers=headers)
    refused = await http.post(f"{ACME}/{SECRET}", content=body, headers=named(headers, None))
    assert (taken.status_code, refused.status_code) == (202, 401)


# ── refused ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("signature", [None, "", "0" * 64, "not hex", "ÿ"])
async def test_without_a_good_signature_it_is_refused_with_401(
    door: Door, http: httpx.AsyncClient, traffic: Traffic, signature: str | None
) -> None:
    headers, body = traffic.make_event()
    raw = [(k.encode(), v.encode("latin-1")) for k, v in named(headers, signature).items()]
    answer = await http.post(ACME, content=body, headers=raw)
    assert (answer.status_code, answer.json()["problem"]) == (401, "W401")
    assert door.refused() == {"signature": 1}
    assert not door.store.rows


async def test_a_signature_of_another_body_is_refused_with_401(
    door: Door, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, _ = traffic.make_event()
    _, body = traffic.make_event()
    assert (await http.post(ACME, content=body, headers=headers)).status_code == 401
    assert not door.store.rows


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"id":7}', b'{"id":"a"}', b'{"id":"a","createdAt":"x"}']
)
async def test_a_proved_body_that_cannot_be_read_is_refused_with_400(
    door: Door, http: httpx.AsyncClient, body: bytes
) -> None:
    answer = await http.post(ACME, content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["problem"]) == (400, "W400")
    assert door.refused() == {"malformed": 1}
    assert not door.store.rows


@pytest.mark.parametrize("name", ["nobody", "Acme", "pollable", "acme2"])
async def test_a_connection_that_takes_no_webhooks_is_404_and_makes_no_label(
    door: Door, http: httpx.AsyncClient, traffic: Traffic, name: str
) -> None:
    headers, body = traffic.make_event()
    answer = await http.post(f"/webhooks/{name}", content=body, headers=headers)
    assert answer.status_code == 404
    assert not door.refused()
    assert f'connection="{name}"'.encode() not in door.metrics.render()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_only_post_is_taken(door: Door, http: httpx.AsyncClient, method: str) -> None:
    assert (await http.request(method, ACME)).status_code == 405
    assert not door.store.rows


async def test_a_disabled_connection_answers_409(
    door: Door, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    answer = await http.post("/webhooks/resting", content=body, headers=headers)
    assert answer.status_code == 409
    assert door.refused() == {"disabled": 1}
    assert not door.store.rows


async def test_a_body_declared_larger_than_1_mib_is_refused_with_413_unread(
    door: Door, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers, _ = traffic.make_event()
    declared = headers | {"content-length": str(MAX_BODY + 1)}
    answer = await http.post(ACME, content=never(), headers=declared)
    assert (answer.status_code, answer.json()["problem"]) == (413, "W413")
    assert door.refused() == {"too_large": 1}


async def test_a_streamed_body_is_refused_with_413_as_soon_as_it_is_too_large(door: Door) -> None:
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": True}

    said = await call(door, receive)
    assert said[0]["status"] == 413
    assert asked == MAX_BODY // 65_536 + 1
    assert door.refused() == {"too_large": 1}
    assert not door.store.rows


async def test_a_body_of_exactly_1_mib_is_read(
    door: Door, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    _, event = traffic.make_event()
    body = event + b" " * (MAX_BODY - len(event))
    answer = await http.post(ACME, content=body, headers=signed(body))
    assert answer.status_code == 202


async def test_a_caller_that_leaves_before_the_end_proves_nothing_about_the_secret(
    door: Door,
) -> None:
    parts = iter(
        [
            {"type": "http.request", "body": b'{"id":', "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(parts)

    await call(door, receive)
    assert door.refused() == {"malformed": 1}
    assert not door.store.rows


async def call(door: Door, receive: Callable[[], Awaitable[Any]]) -> list[dict[str, Any]]:
    """A POST without content-length, as chunked encoding brings it."""
    said: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": ACME,
        "raw_path": ACME.encode(),
        "query_string": b"",
        "headers": [(b"x-jericommerce-event-type", b"Balance changed")],
    }
    await door.shared(scope, receive, send)
    return said


# ── not stored ───────────────────────────────────────────────────────────────────────────────────


async def full(door: Door) -> None:
    """As much waits to be committed as may."""
    record = Record("k", "test:k", "Balance changed", door.clock.now(), b"{}", email="a@b.cd")
    page = Page(door.lane, "webhook", [record] * 50_000, door.clock.now())
    door.intake._groups._waiting.append((page, None))  # type: ignore[arg-type]
    door.intake._groups._rows = 50_000


async def broken(door: Door) -> None:
    door.store.broken = StoreError(Problem.STORE_UNAVAILABLE, f"disk I/O error near {ADDRESS}")


async def disk_low(door: Door) -> None:
    door.intake.closed = Problem.DISK_LOW


async def test_what_can_never_be_stored_is_not_asked_for_again(
    door: Door, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    door.store.broken = StoreError(Problem.STORE_REFUSED, f"bad data near {ADDRESS}")
    headers, body = traffic.make_event()
    answer = await http.post(ACME, content=body, headers=headers)
    assert (answer.status_code, answer.json()["problem"]) == (400, "S60")
    assert ADDRESS not in answer.text
    assert door.refused() == {"malformed": 1}


@pytest.mark.parametrize(
    ("trouble", "problem"), [(broken, "S10"), (disk_low, "S20"), (full, "S10")]
)
async def test_what_cannot_be_stored_is_answered_503_with_a_time_to_come_back(
    door: Door,
    http: httpx.AsyncClient,
    traffic: Traffic,
    trouble: Callable[[Door], Awaitable[None]],
    problem: str,
) -> None:
    await trouble(door)
    headers, body = traffic.make_event()
    answer = await http.post(ACME, content=body, headers=headers)
    assert (answer.status_code, answer.json()["problem"]) == (503, problem)
    assert int(answer.headers["retry-after"]) > 0
    assert ADDRESS not in answer.text
    assert door.refused() == {"not_stored": 1}
    assert not door.store.rows
    assert not door.arrived


async def test_it_is_taken_again_as_soon_as_the_store_answers(
    door: Door, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    await broken(door)
    assert (await http.post(ACME, content=body, headers=headers)).status_code == 503
    door.store.broken = None
    assert (await http.post(ACME, content=body, headers=headers)).json()["accepted"] == 1


# ── what nobody may read ─────────────────────────────────────────────────────────────────────────


async def test_no_refusal_tells_the_secret_the_signature_or_an_address(
    door: Door, http: httpx.AsyncClient, logged: io.StringIO
) -> None:
    bodies = [
        json.dumps({"id": ADDRESS * 20, "email": ADDRESS}).encode(),
        json.dumps({"id": "a", "email": ADDRESS, "createdAt": ADDRESS}).encode(),
        f"{ADDRESS} is no JSON".encode(),
    ]
    texts = []
    for body in bodies:
        headers = signed(body)
        proof = headers["x-jericommerce-hmac-sha256"]
        wrong = named(headers, proof[::-1])
        answers = [
            await http.post(ACME, content=body, headers=headers),
            await http.post(ACME, content=body, headers=wrong),
            await http.post(f"{ACME}/{SECRET}", content=body, headers=named(headers, None)),
            await http.post(f"/webhooks/resting/{SECRET}", content=body, headers=headers),
        ]
        assert [answer.status_code for answer in answers] == [400, 401, 401, 409]
        texts += [answer.text for answer in answers]
        await broken(door)
        texts.append((await http.post(ACME, content=body, headers=wrong)).text)
        door.store.broken = None
        for text in (*texts, logged.getvalue()):
            assert not [x for x in (SECRET, ADDRESS, proof, proof[::-1]) if x in text]
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert {line["event"] for line in lines} == {"webhook refused"}
    assert {line["problem"] for line in lines} == {"W400", "W401", None}


async def test_refusals_are_counted_by_reason_and_connection(
    door: Door, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    for _ in range(3):
        await http.post(ACME, content=body, headers=named(headers, None))
    await http.post(ACME, content=b"[]", headers=signed(b"[]"))
    await http.post("/webhooks/resting", content=body, headers=headers)
    assert door.refused() == {"signature": 3, "malformed": 1, "disabled": 1}
    text = door.metrics.render().decode()
    assert 'connector_webhooks_rejected_total{connection="acme",reason="signature"} 3.0' in text
