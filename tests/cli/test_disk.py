"""A full disk: intake closes, deliveries continue, and intake reopens by itself."""

from __future__ import annotations

import asyncio

import pytest

from connector.app.daemon import App, read_config
from tests.waiting import async_until

from .conftest import Folder


async def test_a_full_disk_closes_intake_and_deliveries_continue(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(folder.ingest, "ada@example.com")
    app = App(read_config(folder.config))
    await app.start()
    try:
        free = app.config.store.min_free - 1
        monkeypatch.setattr(app.store.maintenance, "free_bytes", lambda: free)
        await app.maintenance.heartbeat(app.health, app.config.store)
        headers, body = folder.platforms.traffic.make_event()
        webhook = ("POST", "/webhooks/acme", body, headers)
        status, result = await asyncio.to_thread(folder.request, *webhook)
        assert (status, '"S20"' in result) == (503, True)
        assert (await asyncio.to_thread(folder.request, "GET", "/readyz"))[0] == 503
        assert (await asyncio.to_thread(folder.request, "GET", "/livez"))[0] == 200
        health = await asyncio.to_thread(folder.request, "GET", "/healthz")
        assert (health[0], "S20" in health[1]) == (500, True)
        metrics = (await asyncio.to_thread(folder.request, "GET", "/metrics"))[1]
        assert f"connector_store_free_bytes {float(free)}" in metrics
        await async_until("the record is delivered", lambda: bool(folder.delivered()))
        free = app.config.store.min_free
        await app.maintenance.heartbeat(app.health, app.config.store)
        assert (await asyncio.to_thread(folder.request, *webhook))[0] == 202
        assert (await asyncio.to_thread(folder.request, "GET", "/healthz"))[0] == 200
    finally:
        await app.stop()


async def test_the_nightly_vacuum_returns_free_space(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(folder.ingest, None)
    app = App(read_config(folder.config))
    await app.start(serve=False)
    returned_pages = [500, 20, 0]

    async def free_pages(pages: int) -> int:
        assert pages <= 500
        return returned_pages.pop(0)

    try:
        monkeypatch.setattr(app.store.maintenance, "free_pages", free_pages)
        await app.apply_retention()
        assert returned_pages == []
    finally:
        await app.stop()
