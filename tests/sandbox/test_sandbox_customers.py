"""JeriCommerce customers: changed, with a new address, removed, read with a lag, rate limited."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from connector.sandbox import JeriCommerceSandbox

from .conftest import NOW, FakeTime

KEY = {"api-key": "jeri_sandbox"}
BASE = "/v1/programs/demo"


async def read(client: httpx.AsyncClient, email: str) -> Any:
    client.headers = httpx.Headers(KEY)
    answer = await client.get(f"{BASE}/customers/{email}")
    return answer.json() if answer.status_code == 200 else answer.status_code


async def test_customer_is_changed(jericommerce: JeriCommerceSandbox, in_process: Any) -> None:
    person = jericommerce.add("New@Example.com", birthdate="1990-02-03", phone="+34600000001")
    person.change(balance=7, tier="Gold", extra={"city": "Madrid"})
    async with in_process(jericommerce.app) as client:
        found = await read(client, "NEW@example.com")
        person.change(tier=None, birthdate=None)
        bare = await read(client, "new@example.com")
    assert found["loyaltyData"]["balance"] == 7
    assert found["loyaltyData"]["tierStatus"]["name"] == "Gold"
    assert (found["userData"]["birthdate"], found["userData"]["city"]) == ("1990-02-03", "Madrid")
    assert (bare["loyaltyData"]["tierStatus"], bare["userData"]["birthdate"]) == (None, None)
    assert list(jericommerce.read_log) == [(NOW, "new@example.com")] * 2
    with pytest.raises(ValueError, match="has no changeable field 'blance'"):
        person.change(blance=1)


async def test_a_customer_changes_address_and_is_removed(
    jericommerce: JeriCommerceSandbox, in_process: Any
) -> None:
    person, other = jericommerce.people[:2]
    old, id = person.email, person.id
    async with in_process(jericommerce.app) as client:
        person.change(email="New@example.com")
        moved = [await read(client, old), (await read(client, "new@example.com"))["id"]]
        other.change(email="new@example.com")
        latest = (await read(client, "new@example.com"))["id"]
        jericommerce.remove(other)
        left = (await read(client, "new@example.com"))["id"]
        jericommerce.remove(person)
        removed = await read(client, "new@example.com")
    assert moved == [404, id]
    assert (latest, left, removed) == (other.id, id, 404)
    assert jericommerce.state()["people"] == 3


async def test_reads_may_lag(fake_time: FakeTime, in_process: Any) -> None:
    sandbox = JeriCommerceSandbox(now=fake_time, people=1, lag=10)
    person = sandbox.people[0]
    old, before = person.email, person.balance
    async with in_process(sandbox.app) as client:

        async def balances(*emails: str) -> list[Any]:
            found = [await read(client, email) for email in emails]
            return [x if isinstance(x, int) else x["loyaltyData"]["balance"] for x in found]

        person.change(balance=before + 1)
        item = {"email": old, "amount": 1, "reason": "flow"}
        client.headers = httpx.Headers(KEY)
        await client.post(f"{BASE}/balance/increase", json=[item])
        fake_time.seconds += 9
        person.change(email="new@example.com")
        assert await balances(old, "new@example.com") == [before, 404]
        fake_time.seconds += 1
        assert await balances(old, "new@example.com") == [before + 2, 404]
        sandbox.remove(person)
        fake_time.seconds += 9
        assert await balances(old, "new@example.com") == [404, before + 2]
        fake_time.seconds += 1
        assert await balances(old, "new@example.com") == [404, 404]


async def test_reads_may_be_limited(fake_time: FakeTime, in_process: Any) -> None:
    sandbox = JeriCommerceSandbox(now=fake_time, people=1, rate_per_second=2)
    email = sandbox.people[0].email
    async with in_process(sandbox.app) as client:
        assert [type(await read(client, email)) for _ in range(2)] == [dict, dict]
        refused = await client.get(f"{BASE}/customers/{email}")
        fake_time.seconds += 1
        assert isinstance(await read(client, email), dict)
        query = {"email": email.upper(), "token_type": "download"}
        assert (await client.get(f"{BASE}/customers/token", params=query)).status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert len(sandbox.read_log) == 3
    assert sandbox.token_calls == {email: 1}
    assert sandbox.state()["throttled"] == 1
