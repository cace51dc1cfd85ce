"""A full disk: intake closes, deliveries continue, and intake reopens by itself."""

from __future__ import annotations

import asyncio
import re

import pytest
import structlog

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.domain.lanes import Millis
from connector.ports import ProcessState
from tests.waiting import async_until

from .conftest import Call, Folder


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
        assert health[0] == 500
        assert re.fullmatch(
            rf"S20 the disk of {re.escape(str(folder.store))} has 1 MB free and needs 1 MB "
            r"\(\[store\] min_free\): webhooks are answered 503, deliveries continue; "
            r"what to do: free disk space, or lower `\[store\] min_free`\n",
            health[1],
        )
        metrics = (await asyncio.to_thread(folder.request, "GET", "/metrics"))[1]
        assert f"connector_store_free_bytes {float(free)}" in metrics
        await async_until("the record is delivered", lambda: bool(folder.delivered()))
        free = app.config.store.min_free
        await app.maintenance.heartbeat(app.health, app.config.store)
        assert (await asyncio.to_thread(folder.request, *webhook))[0] == 202
        assert (await asyncio.to_thread(folder.request, "GET", "/healthz"))[0] == 200
    finally:
        await app.stop()


def test_check_reports_a_disk_that_would_close_intake(call: Call, folder: Folder) -> None:
    text = folder.config.read_text()
    assert call("check", "--offline", at=folder).code == 0
    folder.config.write_text(re.sub(r'min_free = "\w+"', 'min_free = "1000000GB"', text))
    result = call("check", "--offline", at=folder)
    assert result.code == 1
    assert re.search(
        r"^FAULT   store S20: the disk of \S+/cli\.db has [\d.]+ GB free and needs "
        r"1000000\.0 GB \(\[store\] min_free\): webhooks would be answered 503\n"
        r" +→ free disk space, or lower `\[store\] min_free`$",
        result.out,
        re.M,
    )


async def test_space_that_comes_and_goes_is_logged_once_a_minute(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(read_config(folder.config))
    await app.start(serve=False)
    try:
        free = [0]
        monkeypatch.setattr(app.store.maintenance, "free_bytes", lambda: free[0])
        with structlog.testing.capture_logs() as logs:
            for n in range(20):
                free[0] = app.config.store.min_free * (n % 2)
                await app.maintenance.heartbeat(app.health, app.config.store)
        assert [x["event"] for x in logs if x["event"].startswith("intake_")] == ["intake_closed"]
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


async def test_the_nightly_run_deletes_reports_of_processes_that_ended(folder: Folder) -> None:
    app = App(read_config(folder.config))
    await app.start(serve=False)
    try:
        reports = app.store.process_reports
        for holder, hours in (("ended", 25), ("recent", 23)):
            at = Millis(app.clock.now() - hours * 3_600_000)
            await reports.save(ProcessState(holder, at, frozenset(), "{}"))
        await app.apply_retention()
        holders = {state.holder for state in await reports.since(Millis(0))}
        assert holders == {"recent", app.leases.holder}
    finally:
        await app.stop()
