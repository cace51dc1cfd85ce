"""A reload completes, whatever the store does meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.domain.errors import Problem, StoreError
from tests.waiting import until

from .conftest import Folder


async def test_a_store_that_fails_during_a_reload_leaves_no_connection_stopped(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, silenced_logs: None
) -> None:
    app = App(read_config(folder.config), reread=lambda: read_config(folder.config))
    await app.start()
    recover, failures = app.store.reads.recover, [0]

    async def failing(*args: object, **kwargs: object) -> int:
        failures[0] += 1
        if failures[0] <= 2:
            raise StoreError(Problem.STORE_UNAVAILABLE)
        return await recover(*args, **kwargs)

    monkeypatch.setattr(app.store.reads, "recover", failing)
    try:
        assert (await app.reload())["reloaded"]
        assert failures == [3]
        await asyncio.to_thread(folder.ingest, "ada@example.com")
        app.runtimes["acme"].events.wake()
        await asyncio.to_thread(until, "the event is delivered", folder.delivered)
    finally:
        await app.stop()
