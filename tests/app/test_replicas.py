"""Replicas that share a PostgreSQL database: each account is worked on by one of them, and all of
them take webhooks (guarantee 12)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from connector.app import takeover
from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.app.takeover import preferred_holder
from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Millis
from connector.domain.profile_state import address_hash
from connector.pipeline import lease
from connector.ports import Clock
from connector.runtime import supervisor
from connector.runtime.clock import SystemClock
from connector.sandbox import KlaviyoSandbox
from connector.service import Commands, ConnectionRuntime
from connector.store.database import open_database
from connector.store.queues.queue import SqlQueue
from tests.stores import delete_all
from tests.waiting import PATIENCE, async_until

from .start import World, address_of_who_joins_when_named, opened

ACCOUNTS = {f"shop{n}": f"ACCT0{n}" for n in range(4)}


class SkewedClock(SystemClock):
    """The clock of a machine that is ahead of the others, or behind them."""

    def __init__(self, seconds: int) -> None:
        self._skew = seconds * 1000

    def now(self) -> Millis:
        return Millis(super().now() + self._skew)


class Cluster:
    """Replicas on one database, and a Klaviyo account for each of their connections."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self.world, self._stack = world, stack
        self.klaviyo = {
            name: KlaviyoSandbox(limits=False, account_id=account, key=f"pk_{name}")
            for name, account in ACCOUNTS.items()
        }
        self.running: list[App] = []

    async def configure(self) -> None:
        self.world.configure(
            *[
                await self.world.connection_to(sandbox, f"pk_{name}", name=name)
                for name, sandbox in self.klaviyo.items()
            ]
        )

    async def start(self, clock: Clock | None = None, *, lease_timeout: float | None = None) -> App:
        file = self.world.file
        app = App(read_config(file), clock=clock, reread=lambda: read_config(file))
        self._stack.push_async_callback(app.stop)
        await app.start(lease_timeout=lease_timeout)
        self.running.append(app)
        return app

    async def start_two(self) -> tuple[App, App]:
        """Two replicas that share the accounts."""
        one, two = await self.start(), await self.start()
        await self.until_settled()
        return one, two

    async def stop(self, app: App) -> None:
        self.running.remove(app)
        await app.stop()

    async def post(self, app: App, name: str) -> tuple[str, str]:
        """Post an event to this replica; the connection and the event's id."""
        self.world.app = app
        return name, await self.world.post(name)

    def recorded(self, event: tuple[str, str]) -> int:
        name, id = event
        return self.klaviyo[name].recorded(id)

    def held(self, app: App) -> set[str]:
        return {a for a in ACCOUNTS.values() if app.leases.of(a).valid()}

    async def until_settled(self) -> None:
        """Wait until every account is held by the replica that is preferred for it."""

        def settled() -> bool:
            holders = [app.leases.holder for app in self.running]
            return all(
                self.held(app)
                == {a for a in ACCOUNTS.values() if preferred_holder(a, holders) == h}
                for app, h in zip(self.running, holders, strict=True)
            )

        await async_until("every account has its holder", settled)


Start = Callable[..., Awaitable[App]]


@pytest.fixture
async def cluster(
    tmp_path: Path, silenced_logs: None, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    # Their names decide who is preferred: with these the first two replicas both get accounts.
    names = (f"replica/{number}/-/0" for number in itertools.count(1))
    monkeypatch.setattr(lease, "holder_name", lambda: next(names))
    async with opened(tmp_path, postgres_url) as world, AsyncExitStack() as stack:
        world.answer()
        made = Cluster(world, stack)
        await made.configure()
        yield made
    database = open_database(postgres_url)
    await database.write(delete_all)
    await database.aclose()


async def test_replicas_share_the_accounts_and_all_take_webhooks(cluster: Cluster) -> None:
    one, two = await cluster.start(), await cluster.start()
    await cluster.until_settled()
    sent = [await cluster.post(app, name) for app in (one, two) for name in cluster.klaviyo]
    await async_until("all are delivered", lambda: all(map(cluster.recorded, sent)))
    assert {cluster.recorded(event) for event in sent} == {1}
    status = await Commands(one.store, SystemClock()).status()
    holders = {replica.account: replica.holder for replica in status.replicas}
    assert holders.keys() == {"store", *ACCOUNTS.values()}
    assert len(set(holders.values())) == 2
    assert set(status.connections) == set(ACCOUNTS)
    assert status.attention == []
    described = [await connections_described(app) for app in (one, two)]
    assert described[0] | described[1] == set(ACCOUNTS)
    assert described[0] & described[1] == set()


async def connections_described(app: App) -> set[str]:
    """Those whose backlog the metrics of this replica show."""
    await app.maintenance.refresh_metrics()
    [family] = app.metrics.outbox.collect()
    return {sample.labels["connection"] for sample in family.samples}


async def test_a_replica_that_stops_hands_its_accounts_over(cluster: Cluster) -> None:
    one, two = await cluster.start_two()
    sent = [await cluster.post(one, name) for name in cluster.klaviyo]
    await cluster.stop(one)
    await async_until("the other has all", lambda: cluster.held(two) == set(ACCOUNTS.values()))
    sent += [await cluster.post(two, name) for name in cluster.klaviyo]
    await async_until("all are delivered", lambda: all(map(cluster.recorded, sent)))
    assert {cluster.recorded(event) for event in sent} == {1}
    assert {s.state()["duplicates"] for s in cluster.klaviyo.values()} == {0}


async def test_what_a_stop_releases_is_taken_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await cluster.start()
    await async_until("it has all", lambda: cluster.held(one) == set(ACCOUNTS.values()))
    monkeypatch.setattr(takeover, "_PASS_SECONDS", 3600.0)
    two = await cluster.start()
    await async_until("it knows them", lambda: two.connections.resources() >= cluster.held(one))
    await until_they_listen(two, 2)
    await cluster.stop(one)
    await async_until("the other has all", lambda: cluster.held(two) == set(ACCOUNTS.values()))


async def until_they_listen(app: App, count: int) -> None:
    """Wait until so many replicas listen to what others release."""

    def listening(c: Connection) -> int:
        statement = """SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE 'LISTEN%connector_released%'"""
        return int(c.exec_driver_sql(statement).scalar_one())

    while True:
        if await app.store.database.read(listening) >= count:
            return
        await asyncio.sleep(0.01)


async def test_an_account_is_handed_over_for_each_second_and_not_for_each_hint(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever releases leases is woken by its own hint, and by those of others."""
    monkeypatch.setattr(takeover, "_HANDED_OVER", 1)
    monkeypatch.setattr(takeover, "_QUIET_TIMEOUT", PATIENCE)
    monkeypatch.setattr(takeover, "_GRACE", PATIENCE)  # the other may be slow to take it
    one = await cluster.start()
    monkeypatch.setattr(takeover, "preferred_holder", lambda *_: one.leases.holder)
    await async_until("it has all", lambda: cluster.held(one) == set(ACCOUNTS.values()))
    two = await cluster.start()
    await until_they_listen(two, 2)
    monkeypatch.setattr(takeover, "_PASS_SECONDS", 3600.0)
    monkeypatch.setattr(takeover, "preferred_holder", lambda *_: two.leases.holder)
    left = len(one.leases.held()) - 1
    one._takeover.wakeup.set()
    # Not before the store has it: a pass of ours beside that of the worker would take it back.
    await async_until("one is handed over", lambda: one._takeover._handed_over)
    assert len(one.leases.held()) == left
    for _ in range(3):
        await one._takeover.run_once()
    assert len(one.leases.held()) == left


async def test_an_account_that_is_slow_to_stop_keeps_no_other(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests may take as long as [server] shutdown_timeout."""
    one, two = await cluster.start_two()
    slow, *others = sorted(cluster.held(one))
    assert others
    stop, answered = ConnectionRuntime.stop, asyncio.Event()

    async def stop_slowly(runtime: ConnectionRuntime, timeout: float) -> None:
        if runtime.account == slow:
            await answered.wait()
        await stop(runtime, timeout)

    monkeypatch.setattr(ConnectionRuntime, "stop", stop_slowly)
    stopping = asyncio.create_task(cluster.stop(one))
    others_of_all = set(ACCOUNTS.values()) - {slow}
    await async_until("the other has all but it", lambda: cluster.held(two) == others_of_all)
    assert not stopping.done()
    answered.set()
    await stopping
    await async_until("the other has all", lambda: cluster.held(two) == set(ACCOUNTS.values()))


async def test_an_account_that_is_slow_to_take_keeps_no_other(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left in the store is loaded before anything is delivered. The others become free only
    once that has begun."""
    one, two = await cluster.start_two()
    slow, *others = sorted(cluster.held(one))
    refresh, may_take = two.connections.refresh, two._takeover._may_take
    begun, loaded = asyncio.Event(), asyncio.Event()

    async def refresh_slowly(resource: str) -> None:
        if resource == slow:
            begun.set()
            await loaded.wait()
        await refresh(resource)

    def may_take_late(resource: str, *args: Any) -> bool:
        return may_take(resource, *args) and (resource not in others or begun.is_set())

    monkeypatch.setattr(two.connections, "refresh", refresh_slowly)
    monkeypatch.setattr(two._takeover, "_may_take", may_take_late)
    await cluster.stop(one)
    await async_until("the others are held", lambda: cluster.held(two) >= set(others))
    assert slow not in cluster.held(two)
    loaded.set()
    await async_until("it is held", lambda: cluster.held(two) == set(ACCOUNTS.values()))


async def test_a_taking_that_failed_is_repeated_beside_one_that_is_slow(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = await cluster.start()
    await async_until("all are held", lambda: cluster.held(app) == set(ACCOUNTS.values()))
    slow, failing, *_ = sorted(ACCOUNTS.values())
    refresh, loaded, failed = app.connections.refresh, asyncio.Event(), False

    async def refresh_badly(resource: str) -> None:
        nonlocal failed
        if resource == slow:
            await loaded.wait()
        elif resource == failing and not failed:
            failed = True
            raise StoreError(Problem.STORE_UNAVAILABLE, "once")
        await refresh(resource)

    monkeypatch.setattr(app.connections, "refresh", refresh_badly)
    await app.leases.release(app.leases.held())
    await async_until("it is held", lambda: failed and app.leases.of(failing).valid())
    assert slow not in cluster.held(app)
    loaded.set()
    await async_until("all are held", lambda: cluster.held(app) == set(ACCOUNTS.values()))


async def test_all_accounts_that_are_slow_to_take_keep_no_other(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = await cluster.start()
    await async_until("all are held", lambda: cluster.held(app) == set(ACCOUNTS.values()))
    refresh, loaded = app.connections.refresh, asyncio.Event()

    async def refresh_slowly(resource: str) -> None:
        if resource in ACCOUNTS.values():
            await loaded.wait()
        await refresh(resource)

    monkeypatch.setattr(app.connections, "refresh", refresh_slowly)
    await app.leases.release(app.leases.held())
    await async_until("what is not slow is held", lambda: app.leases.of("store").valid())
    assert cluster.held(app) == set()
    loaded.set()
    await async_until("all are held", lambda: cluster.held(app) == set(ACCOUNTS.values()))


@pytest.mark.parametrize("skew", [60, -60])
async def test_clocks_that_differ_by_a_minute_harm_nothing(cluster: Cluster, skew: int) -> None:
    one = await cluster.start()
    await cluster.until_settled()
    two = await cluster.start(SkewedClock(skew))
    await cluster.until_settled()
    sent = [await cluster.post(app, name) for app in (one, two) for name in cluster.klaviyo]
    await async_until("all are delivered", lambda: all(map(cluster.recorded, sent)))
    assert {cluster.recorded(event) for event in sent} == {1}


async def test_a_command_is_carried_out_by_whoever_holds_the_account(cluster: Cluster) -> None:
    one, two = await cluster.start(), await cluster.start()
    await cluster.until_settled()
    for name, account in ACCOUNTS.items():
        asked = two if one.leases.of(account).valid() else one
        await carry_out(asked, "pause", {"connection": name})

        def paused(name: str = name, account: str = account) -> bool:
            """Where the account is held now: it may have been handed over meanwhile."""
            return any(
                app.leases.of(account).valid() and app.runtimes[name].events.state.mode == "paused"
                for app in (one, two)
            )

        await async_until("the holder has paused it", paused)


async def carry_out(app: App, kind: str, args: dict[str, Any]) -> None:
    """Submit a command at this replica, and wait for its success on a busy machine."""
    done = await app.commands.submit_and_wait(kind, args, by="ada", patience=60.0)
    assert done.ok, done.result


async def test_a_reload_reaches_every_replica(cluster: Cluster) -> None:
    one, two = await cluster.start_two()
    world = cluster.world
    text = world.file.read_text()
    extra = await world.connection_to(
        KlaviyoSandbox(limits=False, account_id="ACCT99", key="pk_new"), "pk_new", name="new"
    )
    world.file.write_text(text + extra)
    await carry_out(two, "reload", {})
    await async_until("both have it", lambda: all("new" in app.runtimes for app in (one, two)))


async def test_a_setting_made_at_one_replica_is_used_by_all(cluster: Cluster) -> None:
    one, two = await cluster.start(), await cluster.start()
    await cluster.until_settled()
    name = next(iter(ACCOUNTS))
    args = {"connection": name, "names": ["profiles"], "on": False}
    await carry_out(two, "modules", args)
    await async_until(
        "both have switched it off",
        lambda: all("profiles" not in app.runtimes[name].modules for app in (one, two)),
    )


async def test_what_replicas_follow_each_other_by_outlives_a_store_that_fails(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_DELAY", 0.01)
    one, two = await cluster.start(), await cluster.start()
    await cluster.until_settled()
    reads, failures = two.store.commands.last_reload, [3]

    async def failing(*args: Any, **options: Any) -> int:
        if failures[0]:
            failures[0] -= 1
            raise StoreError(Problem.STORE_UNAVAILABLE)
        return await reads(*args, **options)

    async def lost(*callbacks: object) -> None:
        raise StoreError(Problem.STORE_UNAVAILABLE)

    monkeypatch.setattr(two.store.commands, "last_reload", failing)
    monkeypatch.setattr(two.store.hints, "receive", lost)
    await async_until("it has failed", lambda: not failures[0])
    sent = [await cluster.post(one, name) for name in cluster.klaviyo]
    await async_until("all are delivered", lambda: all(map(cluster.recorded, sent)))
    await carry_out(one, "reload", {})


async def test_a_start_outlives_the_leases_that_it_took(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the database goes away after they were taken, for longer than they last."""
    recover, expired = SqlQueue.recover, [2]

    async def expiring(*args: Any, **options: Any) -> int:
        if expired[0]:
            expired[0] -= 1
            raise StoreError(Problem.STORE_HELD, "our lease has expired")
        return await recover(*args, **options)

    monkeypatch.setattr(SqlQueue, "recover", expiring)
    one = await cluster.start()
    await cluster.until_settled()
    sent = [await cluster.post(one, name) for name in cluster.klaviyo]
    await async_until("all are delivered", lambda: all(map(cluster.recorded, sent)))


async def test_a_replica_with_another_configuration_leaves_the_links_of_the_holder(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a roll-out that does not come up, for example."""
    segment = '[[connections.segments]]\nsegment = "{0}"\ntarget = "{0}"\n'
    connection = cluster.world.connection()
    cluster.world.configure(connection + segment.format("old"))
    one = await cluster.start()
    await async_until("it has the lease", lambda: one.leases.of("SANDBX").valid())
    monkeypatch.setattr(takeover, "preferred_holder", lambda *_: one.leases.holder)
    cluster.world.configure(connection + segment.format("new"))
    await cluster.start()
    linked = {group.name for group in await one.store.member_groups.all()}
    assert linked == {"old"}


async def test_who_joins_an_audience_while_the_account_is_named_is_compared_within_it(
    cluster: Cluster,
) -> None:
    """Also before the lease of the account is taken."""
    cluster.world.silence()
    cluster.world.configure(cluster.world.audience())
    address = await address_of_who_joins_when_named(cluster.world, await cluster.start())
    assert address == address_hash("SANDBX", "ada@example.com")


async def test_a_run_until_idle_needs_every_account(cluster: Cluster) -> None:
    one = await cluster.start()
    await cluster.until_settled()
    with pytest.raises(StoreError) as caught:
        await cluster.start(lease_timeout=0.0)
    assert caught.value.problem is Problem.STORE_HELD
    assert one.leases.holder.startswith("replica/1/")
    assert "process 1 on replica holds this store" in str(caught.value)


async def test_a_setting_is_followed_although_the_store_failed_meanwhile(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await cluster.start(), await cluster.start()
    await cluster.until_settled()
    name = next(name for name, account in ACCOUNTS.items() if account in cluster.held(one))
    build, failures = two.connections.build, [2]

    async def failing(*args: Any, **options: Any) -> Any:
        if failures[0]:
            failures[0] -= 1
            raise StoreError(Problem.STORE_UNAVAILABLE)
        return await build(*args, **options)

    monkeypatch.setattr(two.connections, "build", failing)
    args = {"connection": name, "names": ["profiles"], "on": False}
    await carry_out(one, "modules", args)
    await async_until(
        "the other has switched it off", lambda: "profiles" not in two.runtimes[name].modules
    )
    assert failures == [0]


async def test_what_each_replica_refused_is_counted_once_by_all(cluster: Cluster) -> None:
    async def counts() -> list[int]:
        found = []
        for app in cluster.running:
            await app.commands.save_report()
        for app in cluster.running:
            connection = (await app.commands.status()).connections["shop0"]
            found.append(sum(refusal.count for refusal in connection.refusals))
        return found

    def refuse(app: App, count: int) -> None:
        activity = app.metrics.activity
        for _ in range(count):
            activity.record_refused("shop0", "signature", app.clock.now())

    one, two = await cluster.start(), await cluster.start()
    refuse(one, 3)
    refuse(two, 2)
    assert await counts() == [5, 5]
    three = await cluster.start()
    # No account may be left for it.
    refuse(three, 1)
    assert await counts() == [6, 6, 6]
    await cluster.stop(one)
    await cluster.start()
    assert await counts() == [6, 6, 6]
