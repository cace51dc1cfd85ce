"""No worker ends because the store fails, wherever in a pass it does: also while the worker handles
another error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import SecretStr

from connector.app import accounts, takeover
from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.domain.errors import Problem, StoreError
from connector.pipeline import import_jobs
from connector.ports.workers import WorkerName
from connector.runtime import supervisor
from connector.runtime.clock import SystemClock
from connector.runtime.supervisor import SupervisedWorker
from connector.sandbox import KlaviyoSandbox, serve
from connector.sandbox.demo_platforms import DEMO_PLATFORMS
from connector.service import notify
from connector.store.database import Database
from connector.store.sql import open_store
from connector.testing.fakes.remote import respond
from tests.oauth.conftest import KEY
from tests.oauth.tokens import connect
from tests.paths import ROOT
from tests.waiting import async_until

WORKERS = tuple(name for name in get_args(WorkerName) if name not in ("hints", "replicas"))
"""Those of one process. The others run where replicas share a database."""
CALLERS = ("backfill", "import_jobs", "lane", "poll", "scan")
"""Workers that call a remote API, which may fail at the same time."""
CALLS = 6
"""The store fails at each of so many calls of a pass, and at all that follow."""
CONFIG = """\
[store]
url = "sqlite:///state.db"

[server]
port = 0
shutdown_timeout = "1s"

[security]
encryption_key = "{key}"

[klaviyo_app]
client_id = "sandbox-app"
client_secret = "sandbox-app-secret"

[[notify]]
url = "{hook}/notices"
"""
CONNECTION = """
[[connections]]
name = "{source}"
source = "{source}"
mapping = "{mapping}"
modules = ["events", "profiles", "audiences", "segments", "actions"]
{links}
[connections.settings]
{settings}
[connections.klaviyo]
base_url = "{klaviyo}"
private_key = "pk_sandbox"
flow_guard = "warn"
"""
WITH_OAUTH = """
[[connections]]
name = "acme"
source = "jericommerce"
mapping = "{mapping}"
modules = []

[connections.settings]
program = "demo"
api_key = "jeri_sandbox"

[connections.klaviyo]
base_url = "{klaviyo}"
auth = "oauth"
token_url = "{klaviyo}/oauth/token"
"""
LINKS = {
    "wll": 'audiences = [{ audience = "VIP", list = "VIP" }]',
    "jericommerce": (
        'segments = [{ segment = "Winback", target = "spring", '
        'on_join = [{ action = "push", message = "Hello" }] }]'
    ),
}


class FailingDatabase:
    """In front of the database of a store. Calls fail once `left` is used up; None: none do."""

    def __init__(self, database: Database) -> None:
        self.left: int | None = None
        self.failures = 0
        self._write, self._read = database.write, database.read

    async def write(self, work: Any, *, patient: bool = False) -> Any:
        self._count()
        return await self._write(work)

    async def read(self, work: Any, *, brief: bool = False) -> Any:
        self._count()
        return await self._read(work)

    def _count(self) -> None:
        if self.left is None:
            return
        if not self.left:
            self.failures += 1
            raise StoreError(Problem.STORE_UNAVAILABLE, "by a test")
        self.left -= 1


class CountingLoop:
    """A worker's loop, whose passes are counted."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.ended = self.succeeded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def run_once(self) -> float | None:
        try:
            delay: float | None = await self._loop.run_once()
        finally:
            self.ended += 1
        self.succeeded += 1
        return delay


@dataclass
class Rig:
    app: App
    klaviyo: KlaviyoSandbox
    platforms: dict[str, Any]
    database: FailingDatabase

    def workers(self, name: str) -> list[tuple[SupervisedWorker, CountingLoop]]:
        """Those of this name, of the process and of its connections."""
        found: list[Any] = list(self.app._all_workers())
        for runtime in self.app.runtimes.values():
            found += [*runtime.workers, *(lane._supervisor for lane in runtime.dispatchers)]
        counted = []
        for worker in found:
            if worker.name == name:
                worker._loop = CountingLoop(worker._loop)
                counted.append((worker, worker._loop))
        return counted

    async def give_work(self, name: str, loop: CountingLoop) -> None:
        match name:
            case "lease":
                self.app._takeover._note_loss("store")
            case "accounts":
                connections = self.app.connections
                connections.known_accounts.clear()
                for connection, account in connections.accounts.items():
                    unknown = replace(account, confirmed=False, read=self._read_account)
                    connections.accounts[connection] = unknown
            case "commands":
                await self.app.commands.submit("no such command", {}, by="test")
            case "scan":
                loop.trigger()
            case "import_jobs":
                loop.wake()

    async def _read_account(self) -> str:
        await self.app.store.facts.save_usage(())
        return "SANDBX"


async def connect_account(url: str, klaviyo: KlaviyoSandbox) -> None:
    """Connect `acme` by OAuth, with tokens that expire at once: every pass refreshes them."""
    store = await open_store(url)
    klaviyo.oauth.token_lifetime = 0.0
    await connect(store, klaviyo, SecretStr(KEY), SystemClock())
    await store.facts.pin_account("acme", "SANDBX")
    await store.aclose()


async def accept_notices(scope: Any, receive: Any, send: Any) -> None:
    """The target of `[[notify]]`."""
    await respond(204)(accept_notices, scope, receive, send)


@pytest.fixture
async def rig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silenced_logs: None
) -> AsyncIterator[Rig]:
    monkeypatch.setattr(supervisor, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(supervisor, "_MAX_DELAY", 0.01)
    monkeypatch.setattr(supervisor, "_MAX_STORE_DELAY", 0.01)
    monkeypatch.setattr(accounts, "_TIMEOUT", 1.0)  # `acme` never has an answer
    monkeypatch.setattr(takeover, "_PASS_SECONDS", 0.01)
    monkeypatch.setattr(import_jobs, "MIN_POLL_SECONDS", 0.01)
    monkeypatch.setattr(notify, "CHECK_INTERVAL", 0.01)
    klaviyo = KlaviyoSandbox(limits=False)
    platforms: dict[str, Any] = {each.source: each.make() for each in DEMO_PLATFORMS}
    servers = await serve(
        {"klaviyo": (klaviyo.app, 0), "hook": (accept_notices, 0)}
        | {name: (each.app, 0) for name, each in platforms.items()}
    )
    text = CONFIG.format(klaviyo=servers.url("klaviyo"), hook=servers.url("hook"), key=KEY)
    mapping = ROOT / "mappings" / "jericommerce.toml"
    text += WITH_OAUTH.format(klaviyo=servers.url("klaviyo"), mapping=mapping)
    await connect_account(f"sqlite:///{tmp_path}/state.db", klaviyo)
    for each in DEMO_PLATFORMS:
        text += CONNECTION.format(
            source=each.source,
            mapping=ROOT / "mappings" / f"{each.source}.toml",
            links=LINKS.get(each.source, ""),
            settings=each.settings.format(url=servers.url(each.source)),
            klaviyo=servers.url("klaviyo"),
        )
    file = tmp_path / "connector.toml"
    file.write_text(text)
    app = App(read_config(file))
    try:
        await app.start()
        count = len(platforms) + 1
        await async_until("all run", lambda: len(app.connections.running) == count)
        failing = FailingDatabase(app.store.database)
        monkeypatch.setattr(app.store.database, "write", failing.write)
        monkeypatch.setattr(app.store.database, "read", failing.read)
        yield Rig(app, klaviyo, platforms, failing)
        failing.left = None
    finally:
        await app.stop()
        await servers.aclose()


async def test_every_worker_outlives_a_store_that_fails(rig: Rig) -> None:
    for name in WORKERS:
        await outlives(rig, name)


async def test_a_worker_outlives_a_store_and_a_remote_side_that_fail(rig: Rig) -> None:
    for sandbox in (rig.klaviyo, *rig.platforms.values()):
        sandbox.faults.add("*", "status", status=500)
    for name in CALLERS:
        await outlives(rig, name)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
async def test_every_worker_outlives_a_store_that_fails_at_each_call(rig: Rig) -> None:
    for name in WORKERS:
        await outlives(rig, name, thorough=True)
    for sandbox in (rig.klaviyo, *rig.platforms.values()):
        sandbox.faults.add("*", "status", status=500)
    for name in CALLERS:
        await outlives(rig, name, thorough=True)


async def outlives(rig: Rig, name: str, *, thorough: bool = False) -> None:
    """Each worker of this name works again after the store failed at one of its first calls: the
    first worker, or each where `thorough`, at all of them, the others at one of them in turn."""
    workers = rig.workers(name)
    assert workers, f"no worker {name} runs"
    for turn, (worker, loop) in enumerate(workers):
        for calls in range(CALLS) if thorough or not turn else [turn % CALLS]:
            await rig.give_work(name, loop)
            await meets_fault(rig.database, worker, loop, after=calls)
            await succeeds(worker, loop)
            assert worker._task, name
            assert not worker._task.done(), name


async def meets_fault(
    database: FailingDatabase, worker: SupervisedWorker, loop: CountingLoop, *, after: int
) -> None:
    """Run a pass until the store has failed, or to its end where it calls the store less often."""
    database.left, failures, ended = after, database.failures, loop.ended
    worker.wake()
    await async_until(
        f"a pass of {worker.name} has met the fault",
        lambda: database.failures > failures or loop.ended > ended,
    )
    database.left = None


async def succeeds(worker: SupervisedWorker, loop: CountingLoop) -> None:
    succeeded = loop.succeeded
    worker.wake()
    await async_until(f"a pass of {worker.name} has succeeded", lambda: loop.succeeded > succeeded)
