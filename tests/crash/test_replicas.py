"""Two processes on one store: guarantee 12, with real processes and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from connector.sandbox import Traffic
from connector.store.database import open_database
from connector.store.tables import metadata
from tests.processes import run
from tests.store.test_first_start import on_server
from tests.waiting import until

from .conftest import ENVIRONMENT, Daemon, Platforms

TAKES_OVER_WITHIN = 15.0


async def _empty(url: str) -> None:
    database = open_database(url)
    await database.write(
        lambda c: [c.execute(table.delete()) for table in metadata.tables.values()]
    )
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


def test_another_replica_takes_over_from_a_stopped_and_a_killed_one(
    replica: Callable[[str], Daemon], platforms: Platforms, traffic: Traffic
) -> None:
    one = replica("one")
    one.wait_until_ready()
    deliver(one, platforms, traffic)
    two = replica("two")
    until("two responds", lambda: two.get("/livez")[0] == 200)
    # It waits for the lease without a time limit: alive, but not accepting webhooks.
    assert two.get("/readyz")[0] == 503
    headers, body = traffic.make_event()
    assert two.post(headers, body) == 503

    one.send(signal.SIGTERM)
    assert one.end() == 0
    until("two has taken over", two.ready, TAKES_OVER_WITHIN)
    deliver(two, platforms, traffic)

    one.start()
    until("one waits", lambda: one.get("/livez")[0] == 200)
    platforms.klaviyo.faults.add("events", "stall", applied=True, seconds=30.0, count=1)
    headers, body = traffic.make_event()
    assert two.post(headers, body) == 202
    id = f"jericommerce:{json.loads(body)['id']}"
    until("it is in flight", lambda: platforms.klaviyo.recorded(id) == 1)
    two.kill()
    until("one has taken over", one.ready, TAKES_OVER_WITHIN)
    deliver(one, platforms, traffic)
    # The event in flight was sent again, singly, and Klaviyo recognised it.
    until("it is settled", lambda: platforms.klaviyo.state()["duplicates"] == 1)
    assert set(platforms.klaviyo.unique_ids().values()) == {1}
    assert platforms.klaviyo.state()["violations"] == {}


def test_two_daemons_that_start_at_once_on_an_empty_database_both_survive(
    empty_database: str,
    replica: Callable[..., Daemon],
    platforms: Platforms,
    traffic: Traffic,
) -> None:
    both = [replica("one", empty_database), replica("two", empty_database)]
    until("one is ready", lambda: any(daemon.ready() for daemon in both))
    until("both respond", lambda: all(daemon.get("/livez")[0] == 200 for daemon in both))
    [first] = [daemon for daemon in both if daemon.ready()]
    [second] = [daemon for daemon in both if daemon is not first]
    deliver(first, platforms, traffic)
    first.send(signal.SIGTERM)
    assert first.end() == 0
    until("the other has taken over", second.ready, TAKES_OVER_WITHIN)
    deliver(second, platforms, traffic)


@pytest.mark.campaign
def test_a_frozen_replica_loses_its_lease_and_sends_nothing_when_it_resumes(
    replica: Callable[[str], Daemon], platforms: Platforms, traffic: Traffic
) -> None:
    one = replica("one")
    one.wait_until_ready()
    two = replica("two")
    until("two waits", lambda: two.get("/livez")[0] == 200)
    one.send(signal.SIGSTOP)
    try:
        until("two has taken over", two.ready, TAKES_OVER_WITHIN)
        deliver(two, platforms, traffic)
    finally:
        one.send(signal.SIGCONT)
    until(
        "one has noticed the loss",
        lambda: 'lease_held{account="store"} 0' in one.get("/metrics")[1],
    )
    deliver(two, platforms, traffic)
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
        "async def short(self, **args): return await start(self, lease_timeout=1.0, **args)\n"
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
    assert f"/{daemon.process.pid}/" in second.stderr.splitlines()[-2]
    assert daemon.ready()
