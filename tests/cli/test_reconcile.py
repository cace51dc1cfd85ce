"""`connector reconcile`: drift at Klaviyo is reported, and repaired on request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.sync.reconcile import values_match

from .conftest import Folder, Platforms


@pytest.fixture
def platforms() -> Iterator[Platforms]:
    """Separate sandboxes: the tests change data at Klaviyo."""
    running = Platforms()
    yield running
    running.stop()


@pytest.fixture
def folder(tmp_path: Path, platforms: Platforms) -> Iterator[Folder]:
    folder = Folder(tmp_path / tmp_path.name, platforms)
    yield folder
    folder.stop()


async def deliver_people(app: App, folder: Folder, count: int) -> list[str]:
    """Deliver events and profiles of `count` people to Klaviyo; returns their addresses."""
    emails: list[str] = []
    while len(emails) < count:
        headers, body = folder.platforms.traffic.make_event()
        posted = ("POST", "/webhooks/acme", body, headers)
        assert (await asyncio.to_thread(folder.request, *posted))[0] == 202
        email = json.loads(body)["email"]
        emails += [email] if email not in emails else []
    async with asyncio.timeout(30):
        await app.until_idle()
    return emails


def reads(folder: Folder) -> int:
    """The number of requests that read Klaviyo's profiles."""
    return sum(folder.platforms.klaviyo.state()["requests"].get("GET /api/profiles", {}).values())


async def reconcile(app: App, **args: Any) -> dict[str, Any]:
    done, result = await app.commands.execute("reconcile", {"connection": "acme", **args})
    assert done, result
    return dict(result)


async def test_drift_is_reported_and_repaired(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connector.sync.reconcile._SETTLE_MS", 0)
    klaviyo = folder.platforms.klaviyo
    app = App(read_config(folder.config))
    await app.start()
    try:
        await deliver_people(app, folder, 6)
        writes = app.runtimes["acme"].writes
        assert writes
        people = await app.store.ledger.people(writes.lane.id, after=0, limit=10)
        emails = [person.email for person in people]
        clean = await reconcile(app)
        assert clean["people"] == len(emails) > 2
        assert clean["people_differing"] == clean["people_missing"] == 0
        assert clean["events"] >= 4
        assert clean["events_missing"] == clean["resent"] == 0

        properties = klaviyo.edit_properties(emails[0])
        properties["balance"] = "changed at Klaviyo"
        del properties["jericommerce_download_wallet_pass_url"]
        klaviyo.remove_profile(emails[1])
        found = await reconcile(app)
        assert (found["people_differing"], found["people_missing"]) == (1, 1)
        assert found["fields"] == {"balance": 1, "jericommerce_download_wallet_pass_url": 1}
        assert found["events_missing"] >= 1
        assert found["resent"] == 0
        metrics = (await asyncio.to_thread(folder.request, "GET", "/metrics"))[1]
        assert 'connector_reconcile_drift{connection="acme",kind="profile"} 2.0' in metrics
        assert 'connector_people{connection="acme",state="known"} ' in metrics

        fixed = await reconcile(app, fix=True)
        assert fixed["resent"] >= 3
        async with asyncio.timeout(30):
            await app.until_idle()
        after = await reconcile(app)
        assert after["people_differing"] == after["people_missing"] == 0
        assert after["events_missing"] == 0
        assert klaviyo.profile(emails[0])["properties"]["balance"] != "changed at Klaviyo"
        assert klaviyo.state()["violations"] == {}
    finally:
        await app.stop()


async def test_a_sample_reads_no_more_than_its_size(folder: Folder) -> None:
    app = App(read_config(folder.config))
    await app.start()
    try:
        await deliver_people(app, folder, 5)
        before = reads(folder)
        found = await reconcile(app, sample=2)
        assert found["people"] == 2
        assert found["events"] == 0  # too recent: Klaviyo may still be processing them
        assert reads(folder) - before == 1
    finally:
        await app.stop()


async def test_an_unreadable_klaviyo_response_is_an_error_not_drift(folder: Folder) -> None:
    app = App(read_config(folder.config))
    await app.start()
    try:
        await deliver_people(app, folder, 1)
        folder.platforms.klaviyo.faults.add("profiles", "status", status=403, method="GET")
        args = {"connection": "acme", "fix": True}
        done, result = await app.commands.execute("reconcile", args)
        assert not done
        assert "K403" in result["error"]
    finally:
        await app.stop()


def test_numbers_are_compared_as_numbers_and_booleans_are_not_numbers() -> None:
    assert values_match(5, 5.0)
    assert values_match(None, None)
    assert values_match(["a", 1], ["a", 1.0])
    assert not values_match(1, True)
    assert not values_match(0, None)
    assert not values_match("5", 5)


def test_coordinates_are_compared_as_numbers() -> None:
    """Klaviyo returns them as numbers, whatever was sent."""
    for name in ("@location.latitude", "@location.longitude"):
        assert values_match("55.660", 55.66, name)
        assert values_match(55.66, 55.66, name)
        assert not values_match("55.7", 55.66, name)
        assert not values_match("north", 55.66, name)
        assert not values_match(None, 55.66, name)
        assert not values_match("55.66", None, name)
    assert not values_match("55.66", 55.66, "latitude")
