"""A worker that keeps failing shows in status, /healthz and metrics, and recovers by itself."""

from __future__ import annotations

import asyncio

import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.runtime import supervisor
from tests.waiting import until

from .conftest import Folder


def health(folder: Folder) -> int:
    return folder.request("GET", "/healthz")[0]


async def test_a_worker_that_keeps_failing_needs_attention_until_it_recovers(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, silenced_logs: None
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
        await asyncio.to_thread(until, "it is down", lambda: health(folder) == 500)
        [item] = await app.commands.attention()
        assert item.key == "worker commands daemon"
        status, text = await asyncio.to_thread(folder.request, "GET", "/healthz")
        assert status == 500
        assert "R10 daemon: worker commands failed" in text
        assert "ada@" not in text
        metrics = (await asyncio.to_thread(folder.request, "GET", "/metrics"))[1]
        assert 'connector_worker_restarts_total{worker="commands"}' in metrics
        monkeypatch.setattr(app.commands, "execute_pending", execute)
        await asyncio.to_thread(until, "it has recovered", lambda: health(folder) == 200)
    finally:
        await app.stop()
