"""What a stop does to what is under way, and what it leaves in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.cli import daemon as cli_daemon
from connector.runtime.clock import SystemClock
from connector.sandbox import JeriCommerceSandbox, Traffic
from connector.service import CommandHandler, CommandResult
from connector.store.sql import open_store
from tests.paths import ROOT
from tests.platforms.plugins.daemon import running
from tests.waiting import async_until, free_port

from .test_reload import CONFIG


async def test_a_stop_cancels_long_running_commands_before_it_closes_their_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    """A request that ends with its closed client would be stored as the command's failure; a
    command that is cancelled is executed again after the next start."""
    config = CONFIG.format(mapping=ROOT / "mappings" / "jericommerce.toml")
    platforms = {"jericommerce": JeriCommerceSandbox().app}
    started, closed, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    endings: list[str] = []

    async def reads_klaviyo(args: Mapping[str, Any]) -> CommandResult:
        started.set()
        try:
            await closed.wait()
            endings.append("connection closed")
        except asyncio.CancelledError:
            endings.append("cancelled")
            raise
        finally:
            ended.set()
        return False, {"error": "the connection broke"}

    async def close() -> None:
        closed.set()
        await ended.wait()

    async with running(tmp_path, config, platforms, {}, monkeypatch) as daemon:
        runtime = daemon.app.runtimes["acme"]
        assert isinstance(runtime.commands, dict)
        runtime.commands["reconcile"] = CommandHandler(reads_klaviyo, long_running=True)
        runtime.exit_stack.push_async_callback(close)
        await daemon.app.commands.submit("reconcile", {"connection": "acme"}, by="ada")
        async with asyncio.timeout(10):
            await started.wait()
    assert endings == ["cancelled"]


async def test_a_daemon_that_waits_for_its_database_can_be_stopped(
    tmp_path: Path, restore_logging_config: None
) -> None:
    path = tmp_path / "connector.toml"
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere"
    path.write_text(f'[store]\nurl = "{url}"\n[server]\nport = {free_port()}\n')
    app = App(read_config(path))
    starting = asyncio.create_task(app.start())
    await async_until("the port is open", lambda: app.listeners.servers)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await app.stop()


async def test_a_stop_before_lanes_have_started_keeps_the_port_open_for_the_drain_delay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    """Webhooks are sent here as soon as /readyz is 200."""
    path = tmp_path / "connector.toml"
    path.write_text(f'[server]\nport = {free_port()}\ndrain_delay = "7s"\n')
    importing, slept = asyncio.Event(), []

    async def never_imported(modules: Iterable[str]) -> None:
        importing.set()
        await asyncio.Event().wait()

    async def sleep(seconds: float) -> None:
        slept.append((seconds, len(app.listeners.servers)))

    monkeypatch.setattr("connector.app.daemon.import_in_thread", never_imported)
    app = App(read_config(path))
    starting = asyncio.create_task(app.start())
    async with asyncio.timeout(10):
        await importing.wait()
    assert app.health.ready
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    monkeypatch.setattr(app.clock, "sleep", sleep, raising=False)
    await app.stop()
    assert slept == [(7.0, 1)]


async def test_a_start_that_fails_once_webhooks_are_taken_gives_back_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    """Another process, on another machine too, need not wait until the lease has expired."""
    path = tmp_path / "connector.toml"
    path.write_text(
        f'[store]\nurl = "sqlite:///{tmp_path}/state.db"\n[server]\nport = {free_port()}\n'
    )

    async def broken(modules: Iterable[str]) -> None:
        raise ImportError("a damaged installation")

    monkeypatch.setattr("connector.app.daemon.import_in_thread", broken)
    config = read_config(path)
    with pytest.raises(ImportError):
        await cli_daemon._run(config, path, until_idle=False)
    store = await open_store(config.store.url)
    holders = await store.leases.holders(now=SystemClock().now())
    await store.aclose()
    assert [h.holder for h in holders.values() if h.expires_at] == []


async def test_what_a_process_delivered_is_in_the_charts_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> None:
    config = CONFIG.format(mapping=ROOT / "mappings" / "jericommerce.toml")
    double = JeriCommerceSandbox()
    async with running(tmp_path, config, {"jericommerce": double.app}, {}, monkeypatch) as daemon:
        url = f"http://127.0.0.1:{daemon.app.port}/webhooks/acme"
        traffic = Traffic(double, url, redelivery_share=0.0)
        await traffic.burst(5)
        await daemon.until(lambda: len(daemon.klaviyo.unique_ids()) == 5)
        lane = daemon.app.runtimes["acme"].events.lane.id
    store = await open_store(f"sqlite:///{tmp_path}/state.db")
    counted = [x.entries for x in await store.facts.throughput(since_minute=0) if x.lane == lane]
    await store.aclose()
    assert sum(counted) == 5
