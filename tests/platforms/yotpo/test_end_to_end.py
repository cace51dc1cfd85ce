"""Yotpo and a second platform at one Klaviyo account, in a running daemon."""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from connector.app.configuration import read_config
from connector.domain.errors import ConfigError, Problem
from connector.sandbox import JeriCommerceSandbox, Traffic, YotpoSandbox
from connector.tools.checks import check
from tests.paths import ROOT
from tests.platforms.plugins.daemon import Running, running

SECRET = "yotpo_webhook_secret"
HEAD = """
[server]
port = 0
shutdown_timeout = "1s"
"""
SHOP = """
[[connections]]
name = "shop"
source = "yotpo"
[connections.settings]
base_url = "${YOTPO_URL}"
guid = "guid-sandbox"
api_key = "yotpo_sandbox"
webhook_secret = "yotpo_webhook_secret"
poll_every = "1s"
[connections.klaviyo]
private_key = "pk_sandbox"
"""
WALLET = """
[[connections]]
name = "wallet"
source = "jericommerce"
[connections.settings]
base_url = "${JERICOMMERCE_URL}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"
[connections.klaviyo]
private_key = "pk_sandbox"
"""
AGAIN = SHOP.replace('"shop"', '"shop-two"')


@pytest.fixture
def yotpo() -> YotpoSandbox:
    return YotpoSandbox(people=5)


@pytest.fixture
def wallet() -> JeriCommerceSandbox:
    return JeriCommerceSandbox(people=5)


@pytest.fixture
async def daemon(
    tmp_path: Path,
    yotpo: YotpoSandbox,
    wallet: JeriCommerceSandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Running]:
    shutil.copytree(ROOT / "mappings", tmp_path / "mappings")
    platforms = {"yotpo": yotpo.app, "jericommerce": wallet.app}
    async with running(tmp_path, HEAD + SHOP + WALLET, platforms, {}, monkeypatch) as found:
        yield found


async def test_a_webhook_becomes_an_event_and_the_fields_of_its_customer(
    daemon: Running, yotpo: YotpoSandbox
) -> None:
    ana = yotpo.add("ana@example.com", balance=100, earned=600, tier="Silver")
    sent = yotpo.emit("swell/points/changed", ana, random.Random(1))
    assert (await daemon.post("shop", sent.body, sent.headers))[0] == 401
    assert (await daemon.post("shop", sent.body, sent.headers, "wrong"))[0] == 401
    taken = (202, '{"accepted":1,"duplicates":0}')
    assert await daemon.post("shop", sent.body, sent.headers, SECRET) == taken
    again = (202, '{"accepted":0,"duplicates":1}')
    assert await daemon.post("shop", sent.body, sent.headers, SECRET) == again
    await daemon.until(lambda: daemon.klaviyo.recorded(f"yotpo:{sent.id}"))
    await daemon.until(lambda: daemon.properties(ana.email).get("yotpo_balance") == ana.balance)
    # The poll may be first; what it lists has neither a tier nor a link.
    expected = {"yotpo_referral_url", "yotpo_tier_name"}
    await daemon.until(lambda: expected <= daemon.properties(ana.email).keys())
    assert daemon.klaviyo.recorded(f"yotpo:{sent.id}") == 1
    fields = daemon.properties(ana.email)
    assert fields["yotpo_tier_name"] == "Silver"
    assert fields["yotpo_referral_url"] == f"https://{ana.link}"
    assert not [name for name in fields if name.startswith("swell")]
    # A change without a webhook is found by the poll.
    ana.change(balance=4321)
    await daemon.until(lambda: daemon.properties(ana.email).get("yotpo_balance") == 4321)
    assert daemon.properties(ana.email)["yotpo_referral_url"] == f"https://{ana.link}"
    assert yotpo.state()["throttled"] == 0


async def test_the_account_of_a_key_is_fetched_once(daemon: Running) -> None:
    requests: Any = daemon.klaviyo.state()["requests"]
    assert requests["GET /api/accounts"] == {"200": 1}
    assert len({runtime.account for runtime in daemon.app.runtimes.values()}) == 1


async def test_a_body_that_is_not_json_is_rejected_and_counted(daemon: Running) -> None:
    status, text = await daemon.post("shop", b'{{"topic": "swell/points/earned"}', {}, SECRET)
    assert (status, orjson.loads(text)["problem"]) == (400, "W400")
    metrics = (await daemon.get("/metrics"))[1]
    counted = 'connector_webhooks_rejected_total{connection="shop",reason="malformed"} 1.0'
    assert counted in metrics


async def test_a_person_in_two_programs_is_one_profile_with_the_fields_of_both(
    daemon: Running, yotpo: YotpoSandbox, wallet: JeriCommerceSandbox
) -> None:
    ana = yotpo.add("ana@example.com", balance=11)
    card = wallet.add("ana@example.com", balance=22)
    sent = yotpo.emit("loyalty/opt_in", ana, random.Random(1))
    await daemon.post("shop", sent.body, sent.headers, SECRET)
    traffic = Traffic(wallet, "")
    while True:
        headers, body = traffic.make_event()
        if orjson.loads(body).get("email") == card.email:
            break
    await daemon.post("wallet", body, headers)

    def both() -> bool:
        fields = daemon.properties("ana@example.com")
        return (fields.get("yotpo_balance"), fields.get("balance")) == (ana.balance, card.balance)

    await daemon.until(both)
    assert daemon.klaviyo.state()["violations"] == {}


async def test_two_connections_that_write_the_same_are_a_fault_at_start_and_reload(
    daemon: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "connector.toml").write_text(HEAD + SHOP + WALLET + AGAIN)
    with pytest.raises(ConfigError) as caught:
        await daemon.app.reload()
    assert caught.value.problem is Problem.MAPPING_FAULTY
    assert "connections.shop-two.mapping" in caught.value.faults[0]
    assert "connections.shop " in caught.value.faults[0]
    assert list(daemon.app.runtimes) == ["shop", "wallet"]
    found = await check(read_config(tmp_path / "connector.toml"), offline=True)
    faults = [line for line in found if line.level == "fault"]
    assert {line.problem for line in faults} == {Problem.MAPPING_FAULTY}
    assert "yotpo_balance" in str(faults)

    async def started(text: str) -> list[str]:
        folder = tmp_path / "other"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / "mappings", folder / "mappings")
        platforms = {"yotpo": YotpoSandbox().app, "jericommerce": JeriCommerceSandbox().app}
        async with running(folder, text, platforms, {}, monkeypatch) as found:
            return list(found.app.runtimes)

    with pytest.raises(ConfigError):
        await started(HEAD + SHOP + AGAIN)
    for harmless in ("enabled = false", 'mode = "shadow"'):
        again = AGAIN.replace("[connections.settings]", f"{harmless}\n[connections.settings]")
        assert await started(HEAD + SHOP + again) == ["shop", "shop-two"]


async def test_history_is_sent_once_flagged_and_only_before_the_first_live_event(
    daemon: Running, yotpo: YotpoSandbox
) -> None:
    ana = yotpo.add("ana@example.com", balance=100)
    for days in (3, 2, 1):
        ana.adjust_points(10, "Review", datetime.now(UTC) - timedelta(days=days))
    order = {"connection": "shop", "events": True}

    async def backfill() -> dict[str, Any]:
        ok, result = await daemon.app.commands.execute("backfill", order)
        assert ok, result
        while (run := await daemon.app.commands.backfill(int(result["backfill"])))[
            "state"
        ] != "done":
            assert run["state"] in ("waiting", "running"), run
            await daemon.app.clock.sleep(0.05)
        return run

    refused, answer = await daemon.app.commands.execute(
        "backfill", order | {"connection": "wallet"}
    )
    assert (refused, "past events of wallet cannot be imported" in answer["error"]) == (False, True)
    first = await backfill()
    imported = first["past_events"]["imported"]
    assert imported >= 3
    past = await daemon.until(
        lambda: len(found := _of_the_past(daemon)) == imported and found, seconds=20
    )
    assert all(daemon.klaviyo.recorded(id) == 1 for id in past)
    second = await backfill()
    assert second["past_events"] == {"imported": 0, "already_known": imported}
    # What happens from now on is sent live, and not as history.
    ana.adjust_points(10, "Later", datetime.now(UTC))
    third = await backfill()
    assert third["past_events"] == {"imported": 0, "already_known": imported}


def _of_the_past(daemon: Running) -> list[str]:
    return [id for id in daemon.klaviyo.unique_ids() if id.startswith("yotpo:history:")]
