"""A roll-out and a roll-back of a release with additions to the schema: real processes of both
versions on one PostgreSQL, under webhooks that all of them take."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

import connector
from connector.sandbox import Traffic
from connector.store import schema
from tests.paths import ROOT
from tests.store.releases import NEXT, add_migrations
from tests.store.test_first_start import on_server
from tests.waiting import until

from .conftest import ENVIRONMENT, Daemon, Platforms
from .posting import Posting
from .test_replicas import find_holder, holder_of

DATABASE = "rolled"
VERSION = "0.1.999"
_PER_SECOND = 20


class NextRelease(Daemon):
    """`connector run` of a copy of this package with more migrations and another version."""

    def start(self) -> None:
        package = self.folder / "package"
        if not package.exists():
            self._make(package / "connector")
        self._log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "connector.cli", "--config", str(self.config), "run"],
            cwd=self.folder,
            stdout=self._log,
            stderr=self._log,
            env=ENVIRONMENT | {"PYTHONPATH": str(package)},
        )

    def _make(self, package: Path) -> None:
        shutil.copytree(ROOT / "connector", package)
        head = add_migrations(package / "store" / "migrations", NEXT)
        for file, old, new in (
            (package / "__init__.py", connector.__version__, VERSION),
            (package / "store" / "schema.py", f'HEAD = "{schema.HEAD}"', f'HEAD = "{head}"'),
        ):
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))


class SteadyPosting(Posting):
    """Webhooks to the replicas that the load balancer knows, each of which has to take them."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__(1)
        self._traffic, self._lock = traffic, threading.Lock()
        self._replicas: list[Daemon] = []
        self.statuses = Counter[int]()

    def add(self, daemon: Daemon) -> None:
        daemon.wait_until_ready()
        with self._lock:
            self._replicas.append(daemon)

    def remove(self, daemon: Daemon) -> None:
        with self._lock:
            self._replicas.remove(daemon)

    def run(self) -> None:
        while not self.stopped.wait(self.random.expovariate(_PER_SECOND)):
            headers, body = self._traffic.make_event()
            id = f"jericommerce:{json.loads(body)['id']}"
            with self._lock:
                status = self.random.choice(self._replicas).post(headers, body)
            self.statuses[status] += 1
            self.issued.add(id)
            if status == 202:
                self.acknowledged.add(id)


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    asyncio.run(on_server(postgres_url, f"CREATE DATABASE {DATABASE}"))
    yield make_url(postgres_url).set(database=DATABASE).render_as_string(hide_password=False)
    asyncio.run(on_server(postgres_url, f"DROP DATABASE {DATABASE} WITH (FORCE)"))


@pytest.fixture
def replica(
    platforms: Platforms, tmp_path: Path, root: Path, url: str
) -> Iterator[Callable[..., Daemon]]:
    """Starts a replica of a version."""
    daemons: list[Daemon] = []

    def make(name: str, version: type[Daemon] = Daemon) -> Daemon:
        folder = tmp_path / name
        folder.mkdir()
        daemon = version(folder, platforms, root / "mappings")
        text = daemon.config.read_text().replace("sqlite:///state/crash.db", url)
        # Its platform allows as much as it asks for, so that nothing waits but for a replica.
        unlimited = text.replace("program =", "rate_per_second = 1000\nprogram =")
        daemon.config.write_text(unlimited)
        daemons.append(daemon)
        daemon.start()
        return daemon

    yield make
    for daemon in daemons:
        daemon.clean()


@pytest.mark.timeout(300)
def test_a_release_with_additions_is_rolled_out_and_back_under_webhooks(
    replica: Callable[..., Daemon], platforms: Platforms, traffic: Traffic, url: str
) -> None:
    posting = SteadyPosting(traffic)

    def stop(daemon: Daemon) -> None:
        posting.remove(daemon)
        daemon.send(signal.SIGTERM)
        assert daemon.end() == 0, daemon.stderr_text

    def until_delivered() -> None:
        """What has been received until now."""
        received = set(posting.acknowledged)
        until("it is delivered", lambda: received <= platforms.klaviyo.unique_ids().keys())

    first, second = replica("first"), replica("second")
    posting.add(first)
    posting.add(second)
    with posting.in_progress():
        until("webhooks are taken", posting.has_acknowledged(5))
        new = replica("new", NextRelease)
        posting.add(new)
        assert f'version="{VERSION}"' in new.get("/metrics")[1]
        assert schema.with_connection(url, schema.revision_of) == [*NEXT][-1]
        stop(first)
        until_delivered()

        if find_holder([second, new])[0] is second:
            stop(second)
        until("it took the account over from an older version", lambda: holder_of([new]))
        until_delivered()

        first.start()
        posting.add(first)
        if second.process is None:
            second.start()
            posting.add(second)
        stop(new)
        until_delivered()
        count = len(posting.acknowledged)
        until("older versions take webhooks", posting.has_acknowledged(count + 10))
    until_delivered()
    assert set(posting.statuses) == {202}, posting.statuses
    assert posting.acknowledged == platforms.klaviyo.unique_ids().keys()
    assert set(platforms.klaviyo.unique_ids().values()) == {1}
    assert platforms.klaviyo.state()["violations"] == {}
