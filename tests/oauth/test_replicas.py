"""Klaviyo accounts that are connected at a replica which does not work for the connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.config import Config, Connection
from connector.domain.errors import ConfigError, Problem
from connector.pipeline.lease import ResourceLease
from connector.ports import Holder
from connector.store.database import open_database
from connector.store.tables import metadata
from tests.oauth.conftest import Browser, Rig
from tests.waiting import PATIENCE, async_until, free_port


@dataclass(frozen=True)
class Pair:
    """`holder` started first and works for everything; `other` answers the browser."""

    rig: Rig
    holder: App
    other: App

    def working(self) -> list[App]:
        return [app for app in (self.holder, self.other) if app.runtimes["acme"].lease.valid()]

    def accounts(self) -> list[str | None]:
        return [app.runtimes["acme"].account for app in (self.holder, self.other)]

    async def most_working(self) -> int:
        """How many worked for the connection at a time, until both know its account."""
        most = 0
        while self.accounts() != ["SANDBX", "SANDBX"]:
            most = max(most, len(self.working()))
            await asyncio.sleep(0.01)
        return most


@pytest.fixture
async def pair(
    rig: Rig, postgres_url: str, silenced_logs: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pair]:
    # Nothing is handed over by itself.
    monkeypatch.setattr("connector.app.takeover.preferred_holder", lambda _, holders: max(holders))
    # Nor is Klaviyo asked again by itself.
    monkeypatch.setattr("connector.app.accounts.Backoff", lambda *_: lambda rounds: 60.0)
    text = rig.write().read_text().replace("sqlite:///state.db", postgres_url)
    file = rig.folder / "connector.toml"
    async with AsyncExitStack() as stack:
        found = []
        for port, name in ((free_port(), "z/1/-/0"), (rig.port, "a/1/-/0")):
            monkeypatch.setattr("connector.pipeline.lease.holder_name", lambda name=name: name)
            file.write_text(re.sub(r"(?m)^port = \d+", f"port = {port}", text))
            config = read_config(file)
            app = App(config, reread=lambda config=config: config)
            stack.push_async_callback(app.stop)
            await app.start()
            found.append(app)
        rig.app = found[1]
        yield Pair(rig, *found)
    database = open_database(postgres_url)
    await database.write(
        lambda c: [c.execute(table.delete()) for table in metadata.tables.values()]
    )
    await database.aclose()


async def test_an_account_connected_at_another_replica_is_used_by_one(pair: Pair) -> None:
    lane = pair.holder.runtimes["acme"].events
    await pair.rig.event()
    await async_until("the lane is blocked", lambda: lane.state.mode == "blocked")
    most = asyncio.create_task(pair.most_working())
    page = await pair.rig.connect()
    assert page.status_code == 200
    await pair.rig.until_events(1)
    await async_until("both know it", lambda: pair.accounts() == ["SANDBX", "SANDBX"])
    await async_until("one works for it", lambda: len(pair.working()) == 1)
    assert await most == 1


async def test_a_connection_is_left_to_a_replica_that_takes_it_by_name_meanwhile(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not know the account yet, and takes the lease of the connection after the other one
    has read the leases, and before that one takes the lease of the account."""
    unnamed, named = pair.other.leases.of("connection acme"), pair.holder.leases.of("SANDBX")
    acquire, activate = pair.holder.leases.acquire, ResourceLease.activate
    meanwhile: list[bool] = []
    both: list[bool] = []

    async def acquire_late(resource: str, *, dead_holder: str | None = None) -> Holder | None:
        if resource == named.resource and not meanwhile:
            await pair.holder.leases.release([pair.holder.leases.of(unnamed.resource)])
            meanwhile.append(await pair.other.leases.acquire(unnamed.resource) is None)
            unnamed.activate()
        return await acquire(resource, dead_holder=dead_holder)

    def note(lease: ResourceLease) -> None:
        if lease is named:
            both.append(unnamed.valid())
        activate(lease)

    monkeypatch.setattr(pair.holder.leases, "acquire", acquire_late)
    monkeypatch.setattr(ResourceLease, "activate", note)
    await pair.rig.connect()
    await async_until("the first works for the account", named.valid)
    assert (meanwhile, both) == ([True], [False])


@dataclass(frozen=True)
class Late:
    """A lease that a replica takes only once another one works for the account: `taken` has whether
    it got it, each time; `both` whether the other one worked when it began to use it."""

    lease: ResourceLease
    taken: list[bool]
    both: list[bool]

    async def until_over(self) -> None:
        await async_until("it is taken", lambda: any(self.taken))
        await async_until("it is used or given back", lambda: self.both or not self.lease.acquired)


async def until_pinned(app: App, account: str) -> None:
    for _ in range(round(PATIENCE / 0.01)):
        if await app.store.facts.pinned_account("acme") == account:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"the connection was not moved to {account}")


def take_late(
    monkeypatch: pytest.MonkeyPatch,
    app: App,
    resource: str,
    other: ResourceLease,
    pinned: str | None = None,
) -> Late:
    """`pinned`: not before the connection was moved to this account either."""
    late = Late(app.leases.of(resource), [], [])
    acquire, activate = app.leases.acquire, ResourceLease.activate

    async def acquire_late(resource: str, *, dead_holder: str | None = None) -> Holder | None:
        if resource != late.lease.resource:
            return await acquire(resource, dead_holder=dead_holder)
        await async_until("the other works for the account", other.valid)
        if pinned:
            await until_pinned(app, pinned)
        answer = await acquire(resource, dead_holder=dead_holder)
        late.taken.append(answer is None)
        return answer

    def note(lease: ResourceLease) -> None:
        if lease is late.lease and app.runtimes["acme"].lease is lease:
            late.both.append(other.valid())
        activate(lease)

    monkeypatch.setattr(app.leases, "acquire", acquire_late)
    monkeypatch.setattr(ResourceLease, "activate", note)
    return late


def postpone(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, until: asyncio.Event
) -> None:
    call = getattr(owner, name)

    async def late(*args: object, **options: object) -> object:
        await until.wait()
        return await call(*args, **options)

    monkeypatch.setattr(owner, name, late)


async def test_a_connection_is_left_to_the_replica_that_has_taken_its_account(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica that has not learnt the account takes the lease of the connection after the other
    one has looked for it a second time."""
    learns = asyncio.Event()
    postpone(monkeypatch, pair.holder.connections, "learn_accounts", learns)
    late = take_late(monkeypatch, pair.holder, "connection acme", pair.other.leases.of("SANDBX"))
    await pair.holder.leases.release([late.lease])
    await pair.rig.connect()
    await late.until_over()
    learns.set()
    await async_until("both know it", lambda: pair.accounts() == ["SANDBX", "SANDBX"])
    assert not any(late.both)


async def connect_another(rig: Rig) -> None:
    """A person connects another account, and confirms it."""
    rig.klaviyo.account_id = "OTHER1"
    async with Browser() as browser:
        page = await browser.authorize(rig.start)
        assert page.status_code == 409
        [confirmation] = re.findall(r'name="confirmation" value="([^"]+)"', page.text)
        form = {"confirmation": confirmation}
        page = await browser.post(f"{rig.url}/oauth/klaviyo/confirm", data=form)
        assert page.status_code == 200


async def test_another_account_confirmed_at_another_replica_is_used_by_all(pair: Pair) -> None:
    rig = pair.rig
    await rig.connect()
    await rig.event()
    await rig.until_events(1)
    await async_until("both know it", lambda: pair.accounts() == ["SANDBX", "SANDBX"])
    await async_until("the first works for it", lambda: pair.working() == [pair.holder])
    await connect_another(rig)
    await async_until("both know it", lambda: pair.accounts() == ["OTHER1", "OTHER1"])
    assert await rig.app.store.facts.pinned_account("acme") == "OTHER1"
    await rig.event(seed=2)
    await rig.until_events(2)


@pytest.mark.parametrize("worked", [False, True])
async def test_the_account_that_a_connection_had_before_is_not_worked_for(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, worked: bool
) -> None:
    """The replica that has not learnt the new one takes the lease of the old one, which is free,
    and for which it may have `worked` itself, so that Klaviyo has named it here."""
    takeover, accounts = pair.holder._takeover, pair.other.connections.accounts
    may_take = takeover._may_take
    if worked:
        monkeypatch.setattr("connector.app.takeover._KEEP_RETAKEN", 0.0)
        monkeypatch.setattr(
            takeover,
            "_may_take",
            lambda resource, *args: accounts["acme"].confirmed and may_take(resource, *args),
        )
    await pair.rig.connect()
    await async_until("both know it", lambda: pair.accounts() == ["SANDBX", "SANDBX"])
    await async_until("the first works for it", lambda: pair.working() == [pair.holder])
    learns = asyncio.Event()
    postpone(monkeypatch, pair.other.store.commands, "last_reload", learns)
    postpone(monkeypatch, pair.other.connections, "learn_accounts", learns)
    # Until a person confirms the new account, the lanes of both are paused.
    new = pair.holder.leases.of("OTHER1")
    late = take_late(monkeypatch, pair.other, "SANDBX", new, pinned=new.resource)
    connecting = asyncio.create_task(connect_another(pair.rig))
    await late.until_over()
    learns.set()
    await connecting
    await async_until("both know it", lambda: pair.accounts() == ["OTHER1", "OTHER1"])
    assert not any(late.both)


async def test_a_connection_that_runs_without_its_account_learns_it_from_another_replica(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Klaviyo had refused to name it here. Else no one would work for it once the other stops."""

    async def no_reload(*, not_by: str) -> int:
        return 0

    monkeypatch.setattr(pair.holder.store.commands, "last_reload", no_reload)
    late = take_late(monkeypatch, pair.holder, "connection acme", pair.other.leases.of("SANDBX"))
    await pair.holder.leases.release([late.lease])
    pair.holder.connections.run("acme")
    await pair.rig.connect()
    await async_until("both know it", lambda: pair.accounts() == ["SANDBX", "SANDBX"])
    await async_until("one works for it", lambda: len(pair.working()) == 1)


async def test_a_connection_that_cannot_be_built_for_its_account_runs_on_and_is_named(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mapping has been edited, and is not valid yet."""

    async def no_reload(*, not_by: str) -> int:
        return 0

    connections = pair.holder.connections
    monkeypatch.setattr(pair.holder.store.commands, "last_reload", no_reload)
    late = take_late(monkeypatch, pair.holder, "connection acme", pair.other.leases.of("SANDBX"))
    await pair.holder.leases.release([late.lease])
    connections.run("acme")
    builder, fault = connections._builder, "m.toml: line 1 is no key"

    def faulty(config: Config) -> Any:
        made = builder(config)

        async def build(connection: Connection) -> Any:
            raise ConfigError([fault], Problem.MAPPING_FAULTY)

        monkeypatch.setattr(made, "build", build)
        return made

    monkeypatch.setattr(connections, "_builder", faulty)
    await pair.rig.connect()
    problems = pair.holder._problems
    await async_until("it is named", lambda: "account acme" in problems)
    [item] = problems.items("account ")
    assert (item.text, item.problem) == (f"acme: {fault}", Problem.MAPPING_FAULTY)
    assert "acme" in connections.running
    monkeypatch.setattr(connections, "_builder", builder)
    await async_until("both know it", lambda: pair.accounts() == ["SANDBX", "SANDBX"])
    await async_until("it is no problem", lambda: "account acme" not in problems)
