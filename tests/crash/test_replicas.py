"""Processes on one store: guarantee 12, with real processes and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from connector.runtime.metrics import account_label
from connector.sandbox import Traffic
from connector.store.database import open_database
from tests.processes import run
from tests.store.test_first_start import on_server
from tests.stores import delete_all
from tests.waiting import until

from .conftest import ENVIRONMENT, Daemon, Platforms

TAKES_OVER_WITHIN = 15.0


async def _empty(url: str) -> None:
    database = open_database(url)
    await database.write(delete_all)
    await database.aclose()


@pytest.fixture
def replica(
    platforms: Platforms, tmp_path: Path, root: Path, postgres_url: str
) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons on one PostgreSQL, each with its own port."""
    daemons: list[Daemon] = []

    def make(name: str, url: str = postgres_url) -> Daemon:
        folder = tmp_path / name
        folder.mkdir()
        daemon = Daemon(folder, platforms, root / "mappings")
        text = daemon.config.read_text()
        daemon.config.write_text(text.replace("sqlite:///state/crash.db", url))
        daemons.append(daemon)
        daemon.start()
        return daemon

    yield make
    for daemon in daemons:
        daemon.clean()
    asyncio.run(_empty(postgres_url))


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    """A database of the same server without a table."""
    asyncio.run(on_server(postgres_url, "CREATE DATABASE two_starts"))
    yield make_url(postgres_url).set(database="two_starts").render_as_string(hide_password=False)
    asyncio.run(on_server(postgres_url, "DROP DATABASE two_starts WITH (FORCE)"))


def deliver(daemon: Daemon, platforms: Platforms, traffic: Traffic) -> None:
    headers, body = traffic.make_event()
    assert daemon.post(headers, body) == 202
    id = f"jericommerce:{json.loads(body)['id']}"
    until("it is delivered", lambda: platforms.klaviyo.recorded(id) == 1)


def holder_of(daemons: Sequence[Daemon]) -> Daemon | None:
    """The replica that says that it holds the account's lease."""
    held = f'lease_held{{account="{account_label("SANDBX")}"}} 1'
    return next((d for d in daemons if held in d.get("/metrics")[1]), None)


def find_holder(daemons: Sequence[Daemon]) -> tuple[Daemon, Daemon]:
    """The replica that holds the account's lease, and another one."""
    found: list[Daemon] = []

    def is_held() -> bool:
        holder = holder_of(daemons)
        found.extend([holder] if holder else [])
        return bool(found)

    until("one holds the account", is_held)
    [holder] = found
    return holder, next(daemon for daemon in daemons if daemon is not holder)


def test_another_replica_takes_over_from_a_stopped_and_a_killed_one(
    replica: Callable[[str], Daemon], platforms: Platforms, traffic: Traffic
) -> None:
    both = [replica("one"), replica("two")]
    for daemon in both:
        daemon.wait_until_ready()
    # Any replica takes webhooks, whoever delivers them.
    for daemon in both:
        deliver(daemon, platforms, traffic)

    stopped, other = find_holder(both)
    stopped.send(signal.SIGTERM)
    assert stopped.end() == 0
    deliver(other, platforms, traffic)

    stopped.start()
    stopped.wait_until_ready()
    platforms.klaviyo.faults.add("events", "stall", applied=True, seconds=30.0, count=1)
    headers, body = traffic.make_event()
    assert stopped.post(headers, body) == 202
    id = f"jericommerce:{json.loads(body)['id']}"
    until("it is in flight", lambda: platforms.klaviyo.recorded(id) == 1)
    # Not before: until then the account may go over to the replica that has come back.
    killed, other = find_holder(both)
    killed.kill()
    deliver(other, platforms, traffic)
    # The event in flight was sent again, singly, and Klaviyo recognised it.
    until("it is settled", lambda: platforms.klaviyo.state()["duplicates"] == 1)
    assert set(platforms.klaviyo.unique_ids().values()) == {1}
    assert platforms.klaviyo.state()["violations"] == {}


def test_two_daemons_that_start_at_once_on_an_empty_database_both_work(
    empty_database: str,
    replica: Callable[..., Daemon],
    platforms: Platforms,
    traffic: Traffic,
) -> None:
    both = [replica("one", empty_database), replica("two", empty_database)]
    for daemon in both:
        daemon.wait_until_ready()
        deliver(daemon, platforms, traffic)


@pytest.mark.campaign
def test_a_frozen_replica_loses_its_lease_and_sends_nothing_when_it_resumes(
    replica: Callable[[str], Daemon], platforms: Platforms, traffic: Traffic
) -> None:
    both = [replica("one"), replica("two")]
    for daemon in both:
        daemon.wait_until_ready()
    deliver(both[0], platforms, traffic)
    frozen, other = find_holder(both)
    frozen.send(signal.SIGSTOP)
    try:
        deliver(other, platforms, traffic)
    finally:
        frozen.send(signal.SIGCONT)
    deliver(frozen, platforms, traffic)
    assert set(platforms.klaviyo.unique_ids().values()) == {1}


def test_a_second_run_on_one_sqlite_file_waits_and_then_names_the_holder(
    daemon: Daemon, platforms: Platforms
) -> None:
    daemon.start()
    daemon.wait_until_ready()
    assert daemon.process
    # The command with a shorter lease timeout than 30 s.
    code = (
        "import connector.app.daemon as app\n"
        "start = app.App.start\n"
        "async def short(self, **args): return await start(self, lease_timeout=1.0)\n"
        "app.App.start = short\n"
        "from connector.cli import main\n"
        "main()\n"
    )
    second = run(
        ["run"],
        cwd=daemon.folder,
        env=ENVIRONMENT | {"CONNECTOR_CONFIG": str(daemon.config)},
        main=("-c", code),
    )
    assert second.returncode == 1
    assert second.stderr.splitlines()[-2].startswith("S40 ")
    assert f"process {daemon.process.pid} on " in second.stderr.splitlines()[-2]
    assert daemon.ready()
