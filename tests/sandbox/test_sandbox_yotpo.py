"""The Yotpo sandbox: validation, rate limit, and the webhook of every topic."""

from __future__ import annotations

import random
from typing import Any

import httpx
import orjson
import pytest

from connector.net.http import in_process
from connector.sandbox import YotpoSandbox
from connector.sandbox.yotpo.webhooks import TOPICS

from .conftest import FakeTime

KEY = {"x-guid": "guid-sandbox", "x-api-key": "yotpo_sandbox"}
ADJUST = "/api/v2/points/adjust"


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def yotpo(time: FakeTime) -> YotpoSandbox:
    return YotpoSandbox(now=time, people=5)


async def call(sandbox: YotpoSandbox, method: str, path: str, **how: Any) -> httpx.Response:
    async with in_process(sandbox.app) as client:
        how.setdefault("headers", KEY)
        return await client.request(method, f"http://127.0.0.1{path}", **how)


async def test_the_api_key_is_required_and_not_accepted_in_the_url(yotpo: YotpoSandbox) -> None:
    path = "/api/v2/customers?customer_email=unknown@example.com"
    assert (await call(yotpo, "GET", path, headers={})).status_code == 401
    assert (await call(yotpo, "GET", f"{path}&guid=guid-sandbox&api_key=x")).status_code == 404
    assert yotpo.violations["key_in_query"] == 1


@pytest.mark.parametrize(
    "query", ["", "?customer_email=a@example.com&customer_id=1", "?with_history=true"]
)
async def test_a_customer_is_identified_by_exactly_one_parameter(
    yotpo: YotpoSandbox, query: str
) -> None:
    assert (await call(yotpo, "GET", f"/api/v2/customers{query}")).status_code == 400


async def test_an_unknown_parameter_is_counted_as_a_violation(yotpo: YotpoSandbox) -> None:
    await call(yotpo, "GET", "/api/v2/customers/recent?updated_since=2026-01-01")
    assert yotpo.violations["updated_since"] == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"customer_email": "ana@example.com"}, 422),
        ({"customer_email": "ana@example.com", "point_adjustment_amount": "5"}, 422),
        ({"customer_email": "ana@example.com", "point_adjustment_amount": 5, "key": "k"}, 422),
        ({"customer_email": "ana@example.com", "point_adjustment_amount": -11}, 422),
        ({"customer_email": "unknown@example.com", "point_adjustment_amount": 5}, 404),
        ({"customer_email": "ANA@example.com", "point_adjustment_amount": 5}, 200),
    ],
)
async def test_an_adjustment(yotpo: YotpoSandbox, body: dict[str, Any], status: int) -> None:
    ana = yotpo.add("ana@example.com", balance=10)
    assert (await call(yotpo, "POST", ADJUST, json=body)).status_code == status
    assert ana.balance == (15 if status == 200 else 10)
    assert len(yotpo.waiting) == (status == 200)


async def test_an_adjustment_comes_back_as_a_webhook(yotpo: YotpoSandbox) -> None:
    yotpo.add("ana@example.com", balance=10)
    body = {"customer_email": "ana@example.com", "point_adjustment_amount": -4}
    await call(yotpo, "POST", ADJUST, json=body | {"history_title": "Survey · r1"})
    sent = yotpo.next_webhook(random.Random(1))
    body = orjson.loads(sent.body)
    assert sent.suffix == "/yotpo_webhook_secret"
    assert body["topic"] == "swell/points/changed"
    assert (body["previous_balance"], body["current_balance"]) == (10, 6)
    assert body["points_changed_reason"] == "Survey · r1"
    assert yotpo.adjusted("r1") == 1


async def test_the_limit_of_five_per_second_is_reported_in_headers(
    yotpo: YotpoSandbox, time: FakeTime
) -> None:
    path = "/api/v2/vip_tiers"
    left = [(await call(yotpo, "GET", path)).headers["ratelimit-remaining"] for _ in range(5)]
    assert left == ["4", "3", "2", "1", "0"]
    over = await call(yotpo, "GET", path)
    assert (over.status_code, over.headers["ratelimit-reset"]) == (429, "1")
    time.seconds += 1
    assert (await call(yotpo, "GET", path)).status_code == 200
    assert yotpo.state()["throttled"] == 1


def test_every_topic_is_sent_with_its_documented_quirk(yotpo: YotpoSandbox) -> None:
    ana = yotpo.add("ana@example.com", balance=1000, earned=1000, tier="Bronze")
    rng = random.Random(1)
    bodies = {topic: orjson.loads(yotpo.emit(topic, ana, rng).body) for topic in TOPICS}
    assert all(body["topic"] == topic for topic, body in bodies.items())
    earned = bodies["swell/tier/earned"]
    assert earned["customer"]["vip_tier_name"] != earned["new_tier"]["name"]
    before = ana.balance
    redeemed = orjson.loads(yotpo.emit("swell/redemption/created", ana, rng).body)
    assert redeemed["customer"]["points_balance"] == before
    assert bodies["swell/referral/share"]["email"] != ana.email
    assert "pointsEarned" in bodies["swell/tier/status/changed"]["vip_stats"]
    assert "eventid" not in YotpoSandbox(people=1, event_ids=0.0).next_webhook(rng).headers
