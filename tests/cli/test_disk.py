"""A disk that runs full: intake closes, deliveries go on, and it opens again by itself."""

from __future__ import annotations

import asyncio

import pytest

from connector.app.daemon import App, read_config

from .conftest import Folder


async def test_a_full_disk_closes_intake_and_deliveries_continue(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(folder.ingest, "ada@example.com")
    app = App(read_config(folder.config))
    await app.start()
    try:
        free = app.config.store.min_free - 1
        monkeypatch.setattr(app.store, "free_bytes", lambda: free)
        await app.maintenance.heartbeat(app.health, app.config.store)
        headers, body = folder.platforms.traffic.make_event()
        hook = ("POST", "/webhooks/acme", body, headers)
        status, result = await asyncio.to_thread(folder.ask, *hook)
        assert (status, '"S20"' in result) == (503, True)
        assert (await asyncio.to_thread(folder.ask, "GET", "/readyz"))[0] == 503
        assert (await asyncio.to_thread(folder.ask, "GET", "/livez"))[0] == 200
        health = await asyncio.to_thread(folder.ask, "GET", "/healthz")
        assert (health[0], "S20" in health[1]) == (500, True)
        metrics = (await asyncio.to_thread(folder.ask, "GET", "/metrics"))[1]
        assert f"connector_store_free_bytes {float(free)}" in metrics
        async with asyncio.timeout(20):
            while not folder.delivered():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        free = app.config.store.min_free
        await app.maintenance.heartbeat(app.health, app.config.store)
        assert (await asyncio.to_thread(folder.ask, *hook))[0] == 202
        assert (await asyncio.to_thread(folder.ask, "GET", "/healthz"))[0] == 200
    finally:
        await app.stop()


async def test_the_nightly_vacuum_returns_free_space(folder: Folder) -> None:
    await asyncio.to_thread(folder.ingest, None)
    app = App(read_config(folder.config))
    await app.start(serve=False)
    given: list[int] = [500, 20, 0]

    async def free_pages(pages: int) -> int:
        assert pages <= 500
        return given.pop(0)

    try:
        app.store.free_pages = free_pages  # type: ignore[method-assign]
        await app.apply_retention()
        assert given == []
    finally:
        await app.stop()
