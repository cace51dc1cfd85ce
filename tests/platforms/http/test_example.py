"""The example of docs/http-platform.md, from a webhook request to the profile at Klaviyo."""

from __future__ import annotations

import hmac
import shutil
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.platforms.plugins.acme import CONFIG, DELIVERY, KEY, ROOT, SECRET, Acme
from tests.platforms.plugins.daemon import Running, running

ANA = "ana@example.com"
ENVIRON = {
    "ACME_WEBHOOK_SECRET": SECRET,
    "ACME_API_KEY": KEY,
    "ACME_FLOW_SECRET": "flow_0123",
    "ACME_KLAVIYO_PRIVATE_KEY": "pk_sandbox",
}


@pytest.fixture
def acme() -> Acme:
    return Acme()


@pytest.fixture
async def daemon(
    tmp_path: Path, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    shutil.copytree(ROOT / "mappings", tmp_path / "mappings")
    async with running(tmp_path, CONFIG, {"acme": acme.app}, ENVIRON, monkeypatch) as found:
        yield found


async def post(daemon: Running, event: dict[str, Any], key: str = SECRET) -> tuple[int, str]:
    body = orjson.dumps(event)
    digest = hmac.digest(key.encode(), body, sha256).hex()
    return await daemon.post("acme", body, {"x-acme-signature": f"sha256={digest}"})


async def test_a_delivery_becomes_an_event_and_the_fields_of_its_person(
    daemon: Running, acme: Acme
) -> None:
    assert (await post(daemon, DELIVERY, "another key"))[0] == 401
    assert await post(daemon, DELIVERY) == (202, '{"accepted":1,"duplicates":0}')
    assert await post(daemon, DELIVERY) == (202, '{"accepted":0,"duplicates":1}')
    await daemon.until(lambda: "http:e-1" in daemon.klaviyo.unique_ids())
    await daemon.until(lambda: daemon.properties(ANA).get("loyalty_balance") == 120)
    assert daemon.klaviyo.recorded("http:e-1") == 1
    assert daemon.properties(ANA) == {
        "loyalty_balance": 120,
        "loyalty_birthdate": "1990-05-17",
        "loyalty_tier_name": "Gold",
        "loyalty_tier_expires_at": "2027-03-01",
    }
    assert acme.seen_paths == ["/v1/members/ana@example.com"]


async def test_a_flow_changes_points_once(daemon: Running, acme: Acme) -> None:
    """A text of a flow cannot change the structure of the request."""
    reason = 'Review"}, {"change": 1 {ref}'
    body = orjson.dumps([{"email": ANA, "amount": 5, "reason": reason, "idempotency_key": "k1"}])
    for accepted in (1, 0):
        status, text = await daemon.flow("acme/balance/increase", body, "flow_0123")
        assert status == 202
        assert orjson.loads(text)["accepted"] == accepted
    await daemon.until(lambda: acme.applied)
    [sent] = acme.applied.values()
    assert (sent["change"], sent["note"]) == (5, reason)
    assert acme.members[ANA]["points"] == 125
    assert (await daemon.flow("acme/push", b"{}", "flow_0123"))[0] == 404


async def test_goals_are_computed_from_the_tables(
    tmp_path: Path, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = (ROOT / "mappings" / "http.toml").read_text().replace("enabled = false", "")
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "http.toml").write_text(mapping)
    tables = (
        'tiers = [{ name = "Platinum", points = 150 }]\nrewards = [{ name = "Mug", cost = 99 }]'
    )
    config = CONFIG.replace('source = "http"', f'source = "http"\n{tables}')
    async with running(tmp_path, config, {"acme": acme.app}, ENVIRON, monkeypatch) as daemon:
        acme.members[ANA]["tier"] = None
        assert (await post(daemon, DELIVERY))[0] == 202
        await daemon.until(lambda: "loyalty_balance" in daemon.properties(ANA))
        fields = {k: v for k, v in daemon.properties(ANA).items() if "_next_" in k}
        assert fields == {
            "loyalty_next_tier_name": "Platinum",
            "loyalty_next_tier_points_needed": 30,
        }


async def test_the_example_causes_no_warning_in_the_daemon(daemon: Running) -> None:
    found = [check for look in daemon.app.runtimes["acme"].checks for check in await look()]
    assert [line for line in found if line.level == "fault"] == []
    assert (await daemon.get("/healthz"))[0] == 200
