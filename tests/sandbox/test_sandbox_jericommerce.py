"""The JeriCommerce sandbox and its traffic."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections import Counter
from typing import Any

import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.sandbox import JeriCommerceSandbox, Servers, Traffic, serve
from connector.sandbox.jericommerce.people import EVENTS

KEY = {"api-key": "jeri_sandbox"}
BASE = "/v1/programs/demo"


class Receiver:
    """A webhook endpoint. `plan`: statuses of its first responses; then 202."""

    def __init__(self, *plan: int) -> None:
        self.plan = list(plan)
        self.got: list[tuple[str, str, bytes]] = []
        self.app = Starlette(routes=[Route("/hook", self._accept, methods=["POST"])])

    async def _accept(self, request: Request) -> Response:
        status = self.plan.pop(0) if self.plan else 202
        if status == 202:
            headers = request.headers
            self.got.append(
                (
                    headers["x-jericommerce-event-type"],
                    headers["x-jericommerce-hmac-sha256"],
                    await request.body(),
                )
            )
        return Response(status_code=status)


async def test_customer_has_the_documented_shape(
    jericommerce: JeriCommerceSandbox, in_process: Any
) -> None:
    person = jericommerce.people[0]
    async with in_process(jericommerce.app) as client:
        client.headers = KEY
        answer = await client.get(f"{BASE}/customers/{person.email.upper()}")
        unknown = await client.get(f"{BASE}/customers/unknown@example.com")
        client.headers = {"api-key": "wrong"}
        stranger = await client.get(f"{BASE}/customers/{person.email}")
    assert (answer.status_code, unknown.status_code, stranger.status_code) == (200, 404, 401)
    body = answer.json()
    assert body["email"] == person.email
    assert {"firstName", "lastName", "phone", "birthdate"} <= body["userData"].keys()
    assert body["loyaltyData"]["balance"] == person.balance
    assert body["loyaltyData"]["tierStatus"].keys() == {
        "name",
        "balance",
        "enteredAt",
        "expiresAt",
    }
    assert jericommerce.state()["violations"] == {"api_key": 1}


async def test_a_token_is_issued_for_a_known_person(
    jericommerce: JeriCommerceSandbox, in_process: Any
) -> None:
    async with in_process(jericommerce.app) as client:
        client.headers = KEY
        query = {"email": jericommerce.people[0].email, "token_type": "download"}
        answer = await client.get(f"{BASE}/customers/token", params=query)
        other = await client.get(f"{BASE}/customers/token", params={**query, "token_type": "x"})
    assert answer.json()["accessToken"]
    assert other.status_code == 400


async def test_a_balance_change_sends_a_webhook(
    jericommerce: JeriCommerceSandbox, in_process: Any
) -> None:
    person = jericommerce.people[0]
    before = person.balance
    item = {"email": person.email, "amount": 10, "reason": "flow 1"}
    async with in_process(jericommerce.app) as client:
        client.headers = KEY
        up = await client.post(f"{BASE}/balance/increase", json=[item])
        much = await client.post(f"{BASE}/balance/decrease", json=[{**item, "amount": 99_999}])
        bad = await client.post(f"{BASE}/balance/decrease", json=[{**item, "amount": 0}])
    assert (up.status_code, much.status_code, bad.status_code) == (201, 400, 400)
    assert person.balance == before + 10
    assert jericommerce.adjusted("flow 1") == 1
    headers, body = Traffic(jericommerce, "").make_event()
    assert headers["x-jericommerce-event-type"] == "Balance changed"
    assert orjson.loads(body)["properties"]["amount"] == 10


@pytest.mark.parametrize("form", ["hex", "base64"])
def test_signature_covers_the_raw_body(form: Any) -> None:
    headers, body = Traffic(JeriCommerceSandbox(signature=form), "").make_event()
    digest = hmac.digest(b"jeri_webhook_secret", body, hashlib.sha256)
    signed = digest.hex() if form == "hex" else base64.b64encode(digest).decode()
    assert headers["x-jericommerce-hmac-sha256"] == signed
    assert {"id", "customerId", "email", "createdAt", "properties"} <= orjson.loads(body).keys()


def test_every_event_name_occurs_and_changes_the_person(jericommerce: JeriCommerceSandbox) -> None:
    traffic = Traffic(jericommerce, "")
    balances = {person.id: person.balance for person in jericommerce.people}
    names = Counter(traffic.make_event()[0]["x-jericommerce-event-type"] for _ in range(300))
    assert names.keys() == EVENTS.keys()
    assert len(EVENTS) == 18
    assert balances != {person.id: person.balance for person in jericommerce.people}
    assert all(person.balance >= 0 for person in jericommerce.people)


async def test_a_refused_delivery_is_retried_until_accepted() -> None:
    receiver = Receiver(500, 503, 401)
    servers = await serve({"hook": (receiver.app, 0)})
    try:
        url = f"{servers.url('hook')}/hook"
        traffic = Traffic(
            JeriCommerceSandbox(legacy_share=0.5), url, backoff=0.0001, redelivery_share=0.2
        )
        await traffic.burst(60)
    finally:
        await servers.aclose()
    ids = Counter(orjson.loads(body)["id"] for _, _, body in receiver.got)
    assert traffic.sent == 60 == len(ids)
    assert ids.keys() == traffic.acknowledged
    assert traffic.posts == 63 + traffic.redeliveries
    assert traffic.redeliveries > 0
    assert max(ids.values()) > 1
    assert any("email" not in orjson.loads(body) for _, _, body in receiver.got)


async def test_delivery_is_given_up_after_the_last_retry(
    jericommerce: JeriCommerceSandbox,
) -> None:
    receiver = Receiver(*[500] * 4)
    servers = await serve({"hook": (receiver.app, 0)})
    try:
        url = f"{servers.url('hook')}/hook"
        traffic = Traffic(jericommerce, url, backoff=0.0001, retries=3)
        await traffic.burst(1)
    finally:
        await servers.aclose()
    assert (len(traffic.failed), len(traffic.acknowledged), traffic.posts) == (1, 0, 4)


async def test_lost_connection_counts_as_refused(jericommerce: JeriCommerceSandbox) -> None:
    servers = await serve({"hook": (Receiver().app, 0)})
    url = f"{servers.url('hook')}/hook"
    await servers.aclose()
    traffic = Traffic(jericommerce, url, backoff=0.0001, retries=2)
    await traffic.burst(1)
    assert (len(traffic.failed), traffic.posts) == (1, 3)


async def test_run_continues_until_stopped(jericommerce: JeriCommerceSandbox) -> None:
    stop, enough = asyncio.Event(), 20

    class Stopping(Receiver):
        async def _accept(self, request: Request) -> Response:
            answer = await super()._accept(request)
            if len(self.got) >= enough:
                stop.set()
            return answer

    receiver = Stopping()
    servers = await serve({"hook": (receiver.app, 0)})
    try:
        traffic = Traffic(jericommerce, f"{servers.url('hook')}/hook", rate=1000)
        await traffic.run(stop)
    finally:
        await servers.aclose()
    assert len(receiver.got) >= enough
    assert {orjson.loads(body)["id"] for _, _, body in receiver.got} == traffic.acknowledged


async def test_faults_apply_to_this_platform_too(
    jericommerce: JeriCommerceSandbox, servers: Servers
) -> None:
    person = jericommerce.people[0]
    before = person.balance
    jericommerce.faults.add("balance/increase", "reset_after", count=1)
    item = {"email": person.email, "amount": 10, "reason": "flow 2"}
    async with httpx.AsyncClient(
        base_url=servers.url("jericommerce"), headers=KEY, trust_env=False
    ) as client:
        with pytest.raises(httpx.TransportError):
            await client.post(f"{BASE}/balance/increase", json=[item])
        answer = await client.get(f"{BASE}/customers/{person.email}")
    assert answer.json()["loyaltyData"]["balance"] == before + 10


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("balance/increase", [{"email": "a@b.c", "amount": 1, "reason": "x", "key": "y"}], 400),
        ("balance/increase", {"email": "a@b.c", "amount": 1, "reason": "x"}, 400),
        ("balance/increase", [{"email": "a@b.c", "amount": "1", "reason": "x"}], 400),
        ("balance/increase", [{"email": "a@b.c", "amount": 1.5, "reason": "x"}], 400),
        ("integrations/api", [], 400),
        ("integrations/api", [{"email": "a@b.c"}] * 101, 400),
        ("integrations/api", [{"email": "a@b.c", "feature": "tags", "payload": {}}], 404),
    ],
)
async def test_undocumented_requests_are_refused_and_counted(
    jericommerce: JeriCommerceSandbox, in_process: Any, path: str, body: Any, status: int
) -> None:
    async with in_process(jericommerce.app) as client:
        client.headers = KEY
        answer = await client.post(f"{BASE}/{path}", json=body)
    assert answer.status_code == status
    assert jericommerce.violations.total() > 0
    assert not jericommerce.ledger


async def test_several_balance_changes_are_applied_all_or_none(
    jericommerce: JeriCommerceSandbox, in_process: Any
) -> None:
    ana, bruno = jericommerce.people[:2]
    before = ana.balance
    items = [
        {"email": ana.email, "amount": 5, "reason": "both"},
        {"email": bruno.email, "amount": bruno.balance + 1, "reason": "both"},
    ]
    async with in_process(jericommerce.app) as client:
        client.headers = KEY
        down = await client.post(f"{BASE}/balance/decrease", json=items)
        up = await client.post(f"{BASE}/balance/increase", json=items)
    assert (down.status_code, up.status_code) == (400, 201)
    assert ana.balance == before + 5
    assert [(c.email, c.amount) for c in jericommerce.ledger] == [
        (ana.email, 5),
        (bruno.email, items[1]["amount"]),
    ]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"authorization": "Bearer jeri_sandbox"}, {"message": "hello"}, 201),
        ({"authorization": "Bearer jeri_sandbox"}, {"message": "hello", "url": "https://x.y"}, 201),
        ({"authorization": "Bearer jeri_sandbox"}, {"message": ""}, 400),
        ({"authorization": "Bearer jeri_sandbox"}, {"message": "hello", "url": "x"}, 400),
        ({"authorization": "Bearer jeri_sandbox"}, {"message": "hello", "email": "a@b.c"}, 400),
        ({"authorization": "Bearer jeri_sandbox"}, {"message": "hello", "customer_id": "?"}, 404),
        (KEY, {"message": "hello"}, 401),
    ],
)
async def test_push_is_strict(
    jericommerce: JeriCommerceSandbox,
    in_process: Any,
    headers: dict[str, str],
    body: dict[str, str],
    status: int,
) -> None:
    async with in_process(jericommerce.app) as client:
        client.headers = headers
        body = {"customer_id": jericommerce.people[0].id, **body}
        answer = await client.post("/v1/push", json=body)
    assert answer.status_code == status
    assert len(jericommerce.pushes) == int(status == 201)
