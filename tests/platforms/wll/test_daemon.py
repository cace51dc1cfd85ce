"""From a webhook with only an id to the profile at Klaviyo."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from connector.platforms.wll.settings import Settings
from connector.platforms.wll.webhook import WllWebhook
from connector.sandbox import WllSandbox
from connector.sandbox.wll.users import User
from tests.callers import caller_of
from tests.paths import MAPPINGS
from tests.platforms.plugins.daemon import Running, running

from .rig import SETTINGS

CONFIG = """\
[store]
url = "sqlite:///state/connector.db"

[server]
port = 0
shutdown_timeout = "1s"

[delivery]
attach_wait = "3s"     # enough on a slow machine: no event goes before its person was read

[log]
level = "error"

[[connections]]
name = "acme"
source = "wll"
mapping = "mappings/wll.toml"

[connections.settings]
base_url = "${WLL_URL}/v1"
auth_url = "${WLL_URL}/oauth/token"
api_key = "wll_sandbox"
client_id = "wll_client"
client_secret = "wll_client_secret"
webhook_secret = "wll_webhook_secret"
points_event_type = "FLOW_POINTS"
points_event_secret = "wll_points_secret"
join_event = "AUDIENCE_JOINED"
leave_event = "AUDIENCE_LEFT"

[connections.klaviyo]
private_key = "pk_sandbox"
flow_guard = "off"

[[connections.audiences]]
audience = "Gold"
list = "Gold members"
every = "24h"

[connections.actions]
secret = "flow_secret"
"""
FIELDS = {
    "wll_balance",
    "wll_birthdate",
    "wll_tier_name",
    "wll_tier_balance",
    "wll_tier_entered_at",
    "wll_tier_expires_at",
    "wll_account_number",
}


@pytest.fixture
def wll() -> WllSandbox:
    return WllSandbox(people=3)


@pytest.fixture
async def daemon(
    tmp_path: Path, wll: WllSandbox, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    shutil.copytree(MAPPINGS, tmp_path / "mappings")
    async with running(tmp_path, CONFIG, {"wll": wll.app}, {}, monkeypatch) as found:
        yield found


async def post_event(daemon: Running, user: User, number: int = 0, **more: Any) -> str:
    """A webhook about this user; the unique id of its event."""
    event = {
        "type": "CASHBACK_REGISTERED",
        "reportedAt": f"2026-11-01T10:00:00.{number:03d}Z",
        "subject": user.auth,
        "payload": {"amount": 5},
        **more,
    }
    body = orjson.dumps(event)
    assert (await daemon.post("acme", body, {}, "another"))[0] == 401
    status, answer = await daemon.post("acme", body, {}, "wll_webhook_secret")
    assert (status, orjson.loads(answer)["accepted"]) == (202, 1)
    [record] = WllWebhook(Settings.model_validate(SETTINGS)).parse({}, body)
    return record.unique_id


async def skipped(daemon: Running, reason: str, count: int) -> None:
    """Wait until the daemon has counted exactly so many records as skipped for this reason."""
    name = f'connector_records_skipped_total{{connection="acme",reason="{reason}"}} '
    counts: list[float] = []
    for _ in range(500):
        _, text = await daemon.get("/metrics")
        counts = [float(line.removeprefix(name)) for line in text.splitlines() if name in line]
        if counts and counts[0] >= count:
            break
        await asyncio.sleep(0.02)
    assert counts == [count]


async def test_an_event_is_sent_for_its_person_with_the_fields(
    daemon: Running, wll: WllSandbox
) -> None:
    user = next(iter(wll.users))
    ids = [await post_event(daemon, user, number) for number in range(3)]
    await daemon.until(lambda: set(ids) <= set(daemon.klaviyo.unique_ids()))
    await daemon.until(lambda: set(daemon.properties(user.email)) == FIELDS)
    assert daemon.properties(user.email)["wll_balance"] == user.points
    profile = daemon.klaviyo.profile(user.email) or {}
    assert (profile["first_name"], profile["last_name"]) == (user.given, user.family)
    assert [daemon.klaviyo.recorded(id) for id in ids] == [1, 1, 1]
    assert (wll.token_calls, wll.violations) == (1, {})


async def test_a_restricted_user_is_skipped_and_counted(daemon: Running, wll: WllSandbox) -> None:
    placeholder = wll.add("REDACTED")
    quiet = wll.add("quiet@example.org", restricted=True)
    for number in range(2):
        await post_event(daemon, placeholder, number)
    await post_event(daemon, quiet)
    later = next(iter(wll.users))
    known = await post_event(daemon, later)
    await daemon.until(lambda: known in daemon.klaviyo.unique_ids())
    await skipped(daemon, "placeholder", 2)
    await skipped(daemon, "restricted", 1)
    assert set(daemon.klaviyo.unique_ids()) == {known}
    assert daemon.klaviyo.profile("quiet@example.org") is None
    assert daemon.klaviyo.profile("redacted") is None


async def test_a_user_who_becomes_restricted_is_no_longer_sent(
    daemon: Running, wll: WllSandbox
) -> None:
    user = next(iter(wll.users))
    first = await post_event(daemon, user)
    await daemon.until(lambda: first in daemon.klaviyo.unique_ids())
    await daemon.until(lambda: set(daemon.properties(user.email)) == FIELDS)
    before = daemon.properties(user.email)
    user.restricted = True
    user.adjust_points(500)
    await post_event(daemon, user, 1)
    await skipped(daemon, "restricted", 1)
    for number in range(2, 4):
        await post_event(daemon, user, number)
    await skipped(daemon, "restricted", 3)
    assert set(daemon.klaviyo.unique_ids()) == {first}
    assert daemon.properties(user.email) == before
    user.restricted = False
    again = await post_event(daemon, user, 4)
    await daemon.until(lambda: again in daemon.klaviyo.unique_ids())
    await daemon.until(lambda: daemon.properties(user.email)["wll_balance"] == user.points)


async def test_an_audience_is_synced_to_a_list_and_its_events_apply_at_once(
    daemon: Running, wll: WllSandbox
) -> None:
    def listed() -> list[str] | None:
        with contextlib.suppress(ValueError):
            return daemon.klaviyo.list_members("L00000")
        return None

    async def change(earned: int) -> None:
        user.earned = earned
        wll.refresh()
        while wll.waiting:
            body = wll.next_webhook(random.Random(1)).body
            assert (await daemon.post("acme", body, {}, "wll_webhook_secret"))[0] == 202

    user = next(iter(wll.users))
    # The full sync at the start finds no member, and the next one is a day away.
    await daemon.until(lambda: "GET /v1/audiences/{id}/members" in str(wll.state()["requests"]))
    await daemon.until(lambda: listed() == [])
    # A user whose address is not known yet is added by a full sync; this one's is known.
    known = await post_event(daemon, user)
    await daemon.until(lambda: known in daemon.klaviyo.unique_ids())
    await change(1600)
    await daemon.until(lambda: listed() == [user.email])
    await change(0)
    await daemon.until(lambda: listed() == [])
    assert wll.violations == {}


async def test_a_flow_adjusts_points_by_address_and_by_id(daemon: Running, wll: WllSandbox) -> None:
    one, other, _ = wll.users
    points = one.points, other.points
    known = await post_event(daemon, one)
    await daemon.until(lambda: known in daemon.klaviyo.unique_ids())
    async with caller_of(f"http://127.0.0.1:{daemon.app.port}") as flow:
        for route, call in (
            ("balance/increase", [{"email": one.email, "amount": 30, "reason": "Survey"}]),
            ("points/adjust", {"customer_id": str(other.account), "point_adjustment_amount": -20}),
        ):
            body = call if isinstance(call, list) else {**call, "history_title": "Refund"}
            answer = await flow.post(
                f"/flows/acme/{route}", json=body, headers={"api-key": "flow_secret"}
            )
            assert answer.status_code == 202, answer.text
    await daemon.until(lambda: (one.points, other.points) == (points[0] + 30, points[1] - 20))
    assert wll.state()["adjustments"] == 2
    assert wll.violations == {}
