"""A disk that runs full: intake closes, deliveries go on, and it opens again by itself."""

from __future__ import annotations

import asyncio

import pytest

from connector.app.daemon import App, read_config

from .conftest import Folder


async def test_a_full_disk_closes_intake_and_lets_deliveries_go_on(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(folder.take_in, "ada@example.com")
    app = App(read_config(folder.config))
    await app.start()
    try:
        free = app.config.store.min_free - 1
        monkeypatch.setattr(app.store, "free_bytes", lambda: free)
        await app._pulse()
        headers, body = folder.platforms.traffic.make_event()
        hook = ("POST", "/webhooks/acme", body, headers)
        status, said = await asyncio.to_thread(folder.ask, *hook)
        assert (status, '"S20"' in said) == (503, True)
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
        await app._pulse()
        assert (await asyncio.to_thread(folder.ask, *hook))[0] == 202
        assert (await asyncio.to_thread(folder.ask, "GET", "/healthz"))[0] == 200
    finally:
        await app.stop()


async def test_a_night_gives_free_space_back(folder: Folder) -> None:
    await asyncio.to_thread(folder.take_in, None)
    app = App(read_config(folder.config))
    await app.start(serve=False)
    given: list[int] = [500, 20, 0]

    async def give_back(pages: int) -> int:
        assert pages <= 500
        return given.pop(0)

    try:
        app.store.give_back = give_back  # type: ignore[method-assign]
        await app.tidy()
        assert given == []
    finally:
        await app.stop()
