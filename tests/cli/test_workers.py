"""A worker that keeps failing shows in status, /healthz and metrics, and recovers by itself."""

from __future__ import annotations

import asyncio

import pytest

from connector.app.daemon import App, read_config
from connector.runtime import supervisor

from .conftest import Folder


async def test_a_worker_that_keeps_failing_needs_attention_until_it_recovers(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, silence: None
) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(supervisor, "_MAX_DELAY", 0.01)
    app = App(read_config(folder.config))
    await app.start()
    execute = app.commands.execute_pending

    async def broken() -> None:
        raise KeyError("ada@example.com")

    try:
        monkeypatch.setattr(app.commands, "execute_pending", broken)
        async with asyncio.timeout(20):
            while not await app.commands.attention():
                await asyncio.sleep(0.05)
        [item] = await app.commands.attention()
        assert item.key == "worker commands daemon"
        status, text = await asyncio.to_thread(folder.ask, "GET", "/healthz")
        assert status == 500
        assert "R10 daemon: worker commands failed" in text
        assert "ada@" not in text
        metrics = (await asyncio.to_thread(folder.ask, "GET", "/metrics"))[1]
        assert 'connector_worker_restarts_total{worker="commands"}' in metrics
        monkeypatch.setattr(app.commands, "execute_pending", execute)
        async with asyncio.timeout(20):
            while await app.commands.attention():
                await asyncio.sleep(0.05)
        assert (await asyncio.to_thread(folder.ask, "GET", "/healthz"))[0] == 200
    finally:
        await app.stop()
