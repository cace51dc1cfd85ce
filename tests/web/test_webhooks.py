"""A webhook is accepted once it is verified, parsed and committed; every rejection says why."""

from __future__ import annotations

import hmac
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from connector.domain.errors import Problem, StoreError
from connector.runtime.group_commit import GroupCommit
from connector.sandbox import Traffic
from connector.web.asgi import MAX_BODY

from .conftest import SECRET, WebHarness

ACME = "/webhooks/acme"
ADDRESS = "ana@example.com"


def header(headers: dict[str, str], value: str | None) -> dict[str, str]:
    """The headers with another signature, or without one."""
    rest = {k: v for k, v in headers.items() if k != "x-jericommerce-hmac-sha256"}
    return rest | ({"x-jericommerce-hmac-sha256": value} if value is not None else {})


def signed(body: bytes) -> dict[str, str]:
    """The headers of a caller who has the secret, for any body."""
    return {
        "x-jericommerce-event-type": "Balance changed",
        "x-jericommerce-hmac-sha256": hmac.digest(SECRET.encode(), body, "sha256").hex(),
    }


# ── accepted ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_authenticated_webhook_is_stored_and_answered_202_with_counts_only(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    answer = await http.post(ACME, content=body, headers=headers)
    assert (answer.status_code, answer.content) == (202, b'{"accepted":1,"duplicates":0}')
    assert answer.headers["content-type"] == "application/json"
    assert harness.stored() == [f"jericommerce:{json.loads(body)['id']}"]
    assert harness.wakes == ["acme"]


async def test_a_redelivery_is_answered_202_as_a_duplicate_and_stored_once(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    await http.post(ACME, content=body, headers=headers)
    again = await http.post(ACME, content=body, headers=headers)
    assert (again.status_code, again.content) == (202, b'{"accepted":0,"duplicates":1}')
    assert len(harness.stored()) == 1
    assert not harness.rejected()


async def test_a_secret_in_the_url_does_not_replace_a_signature(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    accepted = await http.post(f"{ACME}/anything", content=body, headers=headers)
    rejected = await http.post(f"{ACME}/{SECRET}", content=body, headers=header(headers, None))
    assert (accepted.status_code, rejected.status_code) == (202, 401)


# ── rejected ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("signature", [None, "", "0" * 64, "not hex", "ÿ"])
async def test_a_webhook_without_a_valid_signature_is_401(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic, signature: str | None
) -> None:
    headers, body = traffic.make_event()
    raw = [(k.encode(), v.encode("latin-1")) for k, v in header(headers, signature).items()]
    answer = await http.post(ACME, content=body, headers=raw)
    assert (answer.status_code, answer.json()["problem"]) == (401, "W401")
    assert harness.rejected() == {"signature": 1}
    assert not harness.stored()


async def test_a_signature_of_another_body_is_401(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, _ = traffic.make_event()
    _, body = traffic.make_event()
    assert (await http.post(ACME, content=body, headers=headers)).status_code == 401
    assert not harness.stored()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"id":7}', b'{"id":"a"}', b'{"id":"a","createdAt":"x"}']
)
async def test_an_authenticated_unreadable_body_is_400(
    harness: WebHarness, http: httpx.AsyncClient, body: bytes
) -> None:
    answer = await http.post(ACME, content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["problem"]) == (400, "W400")
    assert harness.rejected() == {"malformed": 1}
    assert not harness.stored()


@pytest.mark.parametrize("name", ["unknown", "Acme", "pollable", "acme2"])
async def test_a_connection_without_webhooks_is_404_and_creates_no_label(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic, name: str
) -> None:
    headers, body = traffic.make_event()
    answer = await http.post(f"/webhooks/{name}", content=body, headers=headers)
    assert answer.status_code == 404
    assert not harness.rejected()
    assert f'connection="{name}"'.encode() not in harness.metrics.render()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_only_post_is_accepted(
    harness: WebHarness, http: httpx.AsyncClient, method: str
) -> None:
    assert (await http.request(method, ACME)).status_code == 405
    assert not harness.stored()


async def test_a_disabled_connection_answers_409(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    answer = await http.post("/webhooks/resting", content=body, headers=headers)
    assert answer.status_code == 409
    assert harness.rejected() == {"disabled": 1}
    assert not harness.stored()


async def test_a_body_declared_larger_than_1_mib_is_refused_with_413_unread(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers, _ = traffic.make_event()
    declared = headers | {"content-length": str(MAX_BODY + 1)}
    answer = await http.post(ACME, content=never(), headers=declared)
    assert (answer.status_code, answer.json()["problem"]) == (413, "W413")
    assert harness.rejected() == {"too_large": 1}


async def test_a_streamed_body_is_refused_with_413_as_soon_as_it_is_too_large(
    harness: WebHarness,
) -> None:
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": True}

    sent = await call(harness, receive)
    assert sent[0]["status"] == 413
    assert received == MAX_BODY // 65_536 + 1
    assert harness.rejected() == {"too_large": 1}
    assert not harness.stored()


async def test_a_body_of_exactly_1_mib_is_read(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    _, event = traffic.make_event()
    body = event + b" " * (MAX_BODY - len(event))
    answer = await http.post(ACME, content=body, headers=signed(body))
    assert answer.status_code == 202


async def test_a_disconnect_before_the_end_does_not_count_as_a_failed_secret(
    harness: WebHarness,
) -> None:
    parts = iter(
        [
            {"type": "http.request", "body": b'{"id":', "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(parts)

    await call(harness, receive)
    assert harness.rejected() == {"malformed": 1}
    assert not harness.stored()


async def call(harness: WebHarness, receive: Callable[[], Awaitable[Any]]) -> list[dict[str, Any]]:
    """A POST without content-length, as chunked encoding brings it."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": ACME,
        "raw_path": ACME.encode(),
        "query_string": b"",
        "headers": [(b"x-jericommerce-event-type", b"Balance changed")],
    }
    await harness.shared(scope, receive, send)
    return sent


# ── not stored ────────────────────────────────────────────────────────────────────────────────────


async def full(harness: WebHarness) -> None:
    """As many rows wait to be committed as may."""
    harness.intake.pages = GroupCommit(
        harness.store.outbox.append, lambda page: len(page.records), max_waiting_rows=0
    )


async def broken(harness: WebHarness) -> None:
    harness.database.error = StoreError(Problem.STORE_UNAVAILABLE, f"disk I/O error near {ADDRESS}")


async def disk_low(harness: WebHarness) -> None:
    harness.intake.closed_by = Problem.DISK_LOW


async def test_a_record_that_can_never_be_stored_is_not_retried_by_the_caller(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    harness.database.error = StoreError(Problem.STORE_REFUSED, f"bad data near {ADDRESS}")
    headers, body = traffic.make_event()
    answer = await http.post(ACME, content=body, headers=headers)
    assert (answer.status_code, answer.json()["problem"]) == (400, "S60")
    assert ADDRESS not in answer.text
    assert harness.rejected() == {"malformed": 1}


@pytest.mark.parametrize(
    ("make_failure", "problem"), [(broken, "S10"), (disk_low, "S20"), (full, "S10")]
)
async def test_a_record_that_cannot_be_stored_now_is_503_with_retry_after(
    harness: WebHarness,
    http: httpx.AsyncClient,
    traffic: Traffic,
    make_failure: Callable[[WebHarness], Awaitable[None]],
    problem: str,
) -> None:
    await make_failure(harness)
    headers, body = traffic.make_event()
    answer = await http.post(ACME, content=body, headers=headers)
    assert (answer.status_code, answer.json()["problem"]) == (503, problem)
    assert int(answer.headers["retry-after"]) > 0
    assert ADDRESS not in answer.text
    assert harness.rejected() == {"not_stored": 1}
    assert not harness.stored()
    assert not harness.wakes


async def test_webhooks_are_accepted_again_once_the_store_recovers(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    await broken(harness)
    assert (await http.post(ACME, content=body, headers=headers)).status_code == 503
    harness.database.error = None
    assert (await http.post(ACME, content=body, headers=headers)).json()["accepted"] == 1


# ── secrets and personal data ─────────────────────────────────────────────────────────────────────


async def test_no_rejection_contains_the_secret_the_signature_or_an_address(
    harness: WebHarness, http: httpx.AsyncClient, logged: io.StringIO
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
        wrong = header(headers, proof[::-1])
        answers = [
            await http.post(ACME, content=body, headers=headers),
            await http.post(ACME, content=body, headers=wrong),
            await http.post(f"{ACME}/{SECRET}", content=body, headers=header(headers, None)),
            await http.post(f"/webhooks/resting/{SECRET}", content=body, headers=headers),
        ]
        assert [answer.status_code for answer in answers] == [400, 401, 401, 409]
        texts += [answer.text for answer in answers]
        await broken(harness)
        texts.append((await http.post(ACME, content=body, headers=wrong)).text)
        harness.database.error = None
        for text in (*texts, logged.getvalue()):
            assert not [x for x in (SECRET, ADDRESS, proof, proof[::-1]) if x in text]
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert {line["event"] for line in lines} == {"webhook_rejected"}
    assert {line["problem"] for line in lines} == {"W400", "W401", None}


async def test_rejections_are_counted_by_reason_and_connection(
    harness: WebHarness, http: httpx.AsyncClient, traffic: Traffic
) -> None:
    headers, body = traffic.make_event()
    for _ in range(3):
        await http.post(ACME, content=body, headers=header(headers, None))
    await http.post(ACME, content=b"[]", headers=signed(b"[]"))
    await http.post("/webhooks/resting", content=body, headers=headers)
    assert harness.rejected() == {"signature": 3, "malformed": 1, "disabled": 1}
    text = harness.metrics.render().decode()
    assert 'connector_webhooks_rejected_total{connection="acme",reason="signature"} 3.0' in text
