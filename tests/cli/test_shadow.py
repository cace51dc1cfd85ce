"""Shadow mode: records are received, read, rendered and settled, but nothing is sent."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App

from .conftest import Folder, Platforms


@pytest.fixture
def platforms() -> Iterator[Platforms]:
    """Separate sandboxes: their requests are counted."""
    running = Platforms()
    yield running
    running.stop()


@pytest.fixture
def folder(tmp_path: Path, platforms: Platforms) -> Iterator[Folder]:
    folder = Folder(tmp_path / tmp_path.name, platforms)
    text = folder.config.read_text()
    folder.config.write_text(text.replace('name = "acme"', 'name = "acme"\nmode = "shadow"'))
    yield folder
    folder.stop()


async def request(folder: Folder, *args: Any) -> tuple[int, str]:
    return await asyncio.to_thread(folder.request, *args)


async def post(folder: Folder, count: int) -> tuple[list[str], list[str]]:
    """Post new events; returns (ids, addresses)."""
    ids, emails = [], []
    for _ in range(count):
        headers, body = folder.platforms.traffic.make_event()
        assert (await request(folder, "POST", "/webhooks/acme", body, headers))[0] == 202
        ids.append(f"jericommerce:{json.loads(body)['id']}")
        emails.append(json.loads(body)["email"])
    return ids, emails


async def idle(app: App) -> None:
    async with asyncio.timeout(30):
        await app.until_idle()


def writes(platforms: Platforms) -> list[str]:
    """Every request to a sandbox that is not a GET."""
    of_klaviyo: Any = platforms.klaviyo.state()["requests"]
    of_jericommerce: Any = platforms.jericommerce.state()["requests"]
    return [route for route in {**of_klaviyo, **of_jericommerce} if not route.startswith("GET ")]


async def test_shadow_sends_nothing_and_ending_it_sends_states_but_no_old_event(
    folder: Folder,
) -> None:
    klaviyo = folder.platforms.klaviyo
    app = App(read_config(folder.config), reread=lambda: read_config(folder.config))
    await app.start()
    try:
        old, _ = await post(folder, 8)
        await idle(app)
        assert writes(folder.platforms) == []
        assert (klaviyo.state()["events"], klaviyo.state()["profiles"]) == (0, 0)
        # Received, read, rendered and settled all the same.
        status = (await app.commands.status()).connections["acme"]
        assert status.mode == "shadow"
        assert {(x.ready, x.in_flight, x.held, x.dead) for x in status.lanes} == {(0,) * 4}
        metrics = (await request(folder, "GET", "/metrics"))[1]
        assert 'records_skipped_total{connection="acme",reason="shadow"}' in metrics
        assert "GET /v1/programs/{program}/customers/{email}" in metrics
        with closing(sqlite3.connect(folder.store)) as store:
            people = store.execute("SELECT wanted, confirmed FROM profiles").fetchall()
        assert people
        assert all("balance" in wanted and confirmed == "{}" for wanted, confirmed in people)

        text = folder.config.read_text()
        folder.config.write_text(text.replace('mode = "shadow"', 'mode = "live"'))
        assert (await app.commands.execute("reload", {}))[0]
        await idle(app)
        assert klaviyo.state()["profiles"] == len(people)
        assert klaviyo.state()["events"] == 0
        [new], _ = await post(folder, 1)
        await idle(app)
        assert klaviyo.unique_ids() == {new: 1}
        assert not klaviyo.recorded(old[0])
        assert klaviyo.state()["violations"] == {}
    finally:
        await app.stop()


async def test_undeliverable_records_are_visible_in_shadow_too(folder: Folder) -> None:
    app = App(read_config(folder.config))
    await app.start()
    try:
        await asyncio.to_thread(folder.ingest, "no address at all")
        app.runtimes["acme"].events.wake()
        await idle(app)
        groups = await app.store.dead_letters.groups()
        assert [(group.problem, group.entries) for group in groups] == [("I20", 1)]
        assert writes(folder.platforms) == []
    finally:
        await app.stop()
