"""A lease that is regained, and a standby: what other processes did meanwhile counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.domain.actions import Action, ActionBatch, ActionRequest, Caps
from connector.domain.attention import Check
from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import SEGMENT_MEMBERS, DeliveryMode, LaneId, Millis, QuotaUsage
from connector.domain.memberships import Link
from connector.domain.outcomes import Held
from connector.domain.records import Claim
from connector.klaviyo.limits import CREATE_EVENT
from connector.pipeline import lease
from connector.pipeline.store_outage import until_available
from connector.ports import Fence, RetryPolicy
from connector.runtime.clock import SystemClock
from connector.runtime.metrics import account_label
from connector.service import Commands
from connector.store.sql import SqlStore, open_store
from tests.store.proxy import CommitProxy, commit_proxy
from tests.stores import delete_all
from tests.waiting import async_until

from .start import World, opened

_TTL = 60_000
_READ_WAIT = 30_000
"""ms after which no event waits for the read of its person."""


@pytest.fixture
async def world(
    tmp_path: Path, silenced_logs: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(lease, "_RENEW_EVERY", 0.05)
    async with opened(tmp_path) as made:
        made.answer()
        yield made


class Thief:
    """Another process that takes the lease of a daemon, works, and gives it back."""

    def __init__(self, store: SqlStore) -> None:
        self.store, self.clock = store, SystemClock()
        self._fence: Fence

    async def take(self) -> None:
        held = (await self.store.leases.holders(now=self.clock.now()))["store"]
        fence = await self.store.leases.acquire(
            "store", "thief", now=self.clock.now(), ttl=_TTL, dead_holder=held.holder
        )
        assert isinstance(fence, Fence)
        self._fence = fence

    async def pause(self) -> None:
        commands = Commands(self.store, self.clock)
        assert (await commands.execute("pause", {"connection": "acme"}))[0]

    async def spend(self, count: int) -> None:
        second = self.clock.now() // 1000
        await self.store.facts.save_usage(
            [QuotaUsage(account_label("SANDBX"), CREATE_EVENT, second, count)]
        )

    async def hold_everything(self) -> None:
        """As a process whose configuration switches the module off."""
        for lane, _ in await self.store.lanes.all():
            if lane.kind != "event":
                continue
            claim = await self.store.outbox.claim(
                lane,
                self._fence,
                now=Millis(self.clock.now() + _READ_WAIT),
                limit=10,
                mode=DeliveryMode.BATCH,
                mapping="",
            )
            assert claim
            held = [Held(entry.seq, Problem.NOT_LIVE, "") for entry in claim.entries]
            await self.store.outbox.settle(
                claim, held, now=self.clock.now(), policy=RetryPolicy(_TTL)
            )

    async def give_back(self) -> None:
        await self.store.leases.release([self._fence])


def is_deliverable(app: App) -> bool:
    return app.leases.of("store").valid()


def remaining(app: App) -> int:
    limiter = app.connections.limiters._limiters["SANDBX"]
    return next(
        left
        for endpoint, window, left in limiter.remaining()
        if (endpoint, window) == (CREATE_EVENT, "minute")
    )


async def test_a_regained_lease_loads_pauses_and_spent_quota(world: World) -> None:
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        thief, before = Thief(app.store), remaining(app)
        await thief.take()
        await async_until("the loss is noticed", lambda: not is_deliverable(app))
        await thief.pause()
        await thief.spend(100)
        await thief.give_back()
        await async_until("it is regained", lambda: is_deliverable(app))
        assert {lane.state.mode for lane in app.runtimes["acme"].dispatchers} == {"paused"}
        assert remaining(app) == before - 100
        id = await world.post()
        assert (await app.commands.execute("resume", {"connection": "acme"}))[0]
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)


async def test_what_came_while_another_process_had_the_lease_is_delivered(world: World) -> None:
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        thief = Thief(app.store)
        await thief.take()
        await async_until("the loss is noticed", lambda: not is_deliverable(app))
        id = await world.post()
        await thief.give_back()
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)


async def test_what_another_process_held_by_its_configuration_is_delivered(world: World) -> None:
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        thief = Thief(app.store)
        await thief.take()
        await async_until("the loss is noticed", lambda: not is_deliverable(app))
        id = await world.post()
        await thief.hold_everything()
        await thief.give_back()
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)


SEGMENT = '[[connections.segments]]\nsegment = "{0}"\ntarget = "{0}"\n'


async def linked(app: App) -> set[str]:
    return {group.name for group in await app.store.member_groups.all()}


async def test_a_regained_lease_puts_the_links_into_use_that_another_process_replaced(
    world: World,
) -> None:
    world.configure(world.connection() + SEGMENT.format("ours"))
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        thief = Thief(app.store)
        await thief.take()
        await async_until("the loss is noticed", lambda: not is_deliverable(app))
        lane = await app.store.lanes.ensure("acme", "jericommerce", SEGMENT_MEMBERS.kind)
        await app.store.member_groups.set_links(lane, [Link("theirs", "theirs")], account="acme")
        assert await linked(app) == {"theirs"}
        await thief.give_back()
        await async_until("it is regained", lambda: is_deliverable(app))
        assert await linked(app) == {"ours"}


async def test_a_lease_that_is_lost_before_the_links_are_stored_leaves_those_of_the_holder(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a process that is frozen between the two."""
    world.configure(world.connection() + SEGMENT.format("ours"))
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        thief, groups, commands = Thief(app.store), app.store.member_groups, app.store.commands
        await thief.take()
        await async_until("the loss is noticed", lambda: not is_deliverable(app))
        lane = await app.store.lanes.ensure("acme", "jericommerce", SEGMENT_MEMBERS.kind)
        requeue, refresh = commands.requeue, app.connections.refresh
        refreshed = asyncio.Event()

        async def requeue_and_freeze(**options: Any) -> int:
            count = await requeue(**options)
            await thief.take()
            await groups.set_links(lane, [Link("theirs", "theirs")], account="acme")
            return count

        async def refresh_once(resource: str) -> None:
            try:
                await refresh(resource)
            finally:
                refreshed.set()

        monkeypatch.setattr(commands, "requeue", requeue_and_freeze)
        monkeypatch.setattr(app.connections, "refresh", refresh_once)
        await thief.give_back()
        await async_until("it was taken and lost", refreshed.is_set)
        assert await linked(app) == {"theirs"}


async def test_a_reload_while_a_lease_is_regained_puts_its_links_into_use(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.configure(world.connection() + SEGMENT.format("old"))
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        thief, limiters = Thief(app.store), app.connections.limiters
        await thief.take()
        await async_until("the loss is noticed", lambda: not is_deliverable(app))
        load = limiters.reload

        async def load_and_reload(connections: Collection[str]) -> None:
            await load(connections)
            monkeypatch.undo()
            world.configure(world.connection() + SEGMENT.format("new"))
            assert (await app.reload())["reloaded"]

        monkeypatch.setattr(limiters, "reload", load_and_reload)
        await thief.give_back()
        await async_until("it is regained", lambda: is_deliverable(app))
        assert await linked(app) == {"new"}


@pytest.mark.parametrize("fails", ["recover", "all", "requeue", "usage_since"])
async def test_a_takeover_that_meets_a_failing_store_is_completed(
    world: World, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        store = app.store
        port = {
            "recover": store.profiles,
            "all": store.lanes,
            "requeue": store.commands,
            "usage_since": store.facts,
        }[fails]
        works, failures = getattr(port, fails), [2]

        async def failing(*args: object, **options: object) -> object:
            assert not is_deliverable(app)
            if failures[0]:
                failures[0] -= 1
                raise StoreError(Problem.STORE_UNAVAILABLE)
            return await works(*args, **options)

        thief = Thief(store)
        await thief.take()
        await async_until("the loss is noticed", lambda: not is_deliverable(app))
        monkeypatch.setattr(port, fails, failing)
        await thief.give_back()
        await async_until("it is regained", lambda: is_deliverable(app))
        monkeypatch.setattr(port, fails, works)
        id = await world.post()
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)


async def test_a_look_at_the_leases_that_fails_cuts_off_no_reload(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that another process has made is used when the lease is regained."""
    async with world.running() as app:
        await async_until("it runs", lambda: "acme" in app.connections.running)
        text = world.file.read_text()
        world.file.write_text(text.replace("rate_per_second = 100", "rate_per_second = 99"))
        monkeypatch.setattr(app._following, "_settings_used", ())
        stop, holders = app.connections._stop, app.store.leases.holders
        begun, failed = asyncio.Event(), asyncio.Event()

        async def stop_slowly(*args: Any) -> None:
            begun.set()
            await stop(*args)
            await async_until("the leases were read in vain", failed.is_set)

        async def fail_once(*, now: Millis) -> Any:
            if begun.is_set() and not failed.is_set():
                failed.set()
                raise StoreError(Problem.STORE_UNAVAILABLE, "it is away")
            return await holders(now=now)

        monkeypatch.setattr(app.connections, "_stop", stop_slowly)
        monkeypatch.setattr(app.store.leases, "holders", fail_once)
        await app.leases.release(app.leases.held())
        await async_until("it failed", failed.is_set)
        await async_until("it runs again", lambda: "acme" in app.connections.running)
        id = await world.post("acme")
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id))


async def test_claims_are_released_although_the_lease_was_renewed_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease has expired when a reload wants to release what its lanes had claimed; renewal
    comes later, and no other process has taken it."""

    async def unavailable(*_: object, **__: object) -> frozenset[Fence]:
        raise StoreError(Problem.STORE_UNAVAILABLE)

    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        [lane] = [lane for lane, _ in await app.store.lanes.all() if lane.kind == "event"]
        assert (await app.commands.execute("pause", {"connection": "acme"}))[0]
        id = await world.post()
        fence, now = app.leases.of("store").fence, Millis(app.clock.now() + _READ_WAIT)
        renew = app.store.leases.renew
        with monkeypatch.context() as patch:
            patch.setattr(app.store.leases, "renew", unavailable)
            await renew([fence], now=now, ttl=_TTL)
            assert await app.store.outbox.claim(
                lane, fence, now=now, limit=9, mode=DeliveryMode.BATCH, mapping=""
            )
            await renew([fence], now=app.clock.now(), ttl=0)  # as if it had expired
            recover = partial(app._takeover.recover, {"store": {lane.id}})
            recovered = asyncio.create_task(until_available(recover, app.clock))
            await asyncio.sleep(0)
        await recovered
        assert (await app.commands.execute("resume", {"connection": "acme"}))[0]
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)


async def test_a_lease_that_was_renewed_late_releases_nothing_of_lanes_that_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload replaces one connection while the lane of another one sends."""
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        world.klaviyo_gate.open.clear()
        id = await world.post()
        await async_until("it is under way", lambda: world.klaviyo_gate.waiting)
        fence = app.leases.of("store").fence
        await app.store.leases.renew([fence], now=app.clock.now(), ttl=0)  # as if it had expired
        await until_available(lambda: app._takeover.recover({"store": {LaneId(0)}}), app.clock)
        await async_until("it is renewed", app.leases.of("store").valid)
        lanes = app.runtimes["acme"].dispatchers
        await asyncio.gather(*(lane.until_quiet(0.2) for lane in lanes))
        world.klaviyo_gate.open.set()
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)
        assert await app.until_idle() == []
        assert world.klaviyo.state()["duplicates"] == 0


# ── a standby on PostgreSQL ──────────────────────────────────────────────────────────────────────


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[CommitProxy]:
    async with commit_proxy(postgres_url) as running:
        yield running


@pytest.fixture
async def holder(postgres_url: str) -> AsyncIterator[SqlStore]:
    store = await open_store(postgres_url)
    yield store
    await store.database.write(delete_all)
    await store.aclose()


async def test_a_standby_survives_a_database_that_goes_away(
    tmp_path: Path, silenced_logs: None, proxy: CommitProxy, holder: SqlStore
) -> None:
    clock = SystemClock()
    fence = await holder.leases.acquire("store", "holder", now=clock.now(), ttl=_TTL)
    assert isinstance(fence, Fence)
    async with opened(tmp_path, proxy.url) as world:
        world.answer()
        app = App(read_config(world.file))
        starting = asyncio.create_task(app.start())
        await async_until("it waits for the lease", lambda: hasattr(app, "store"))
        proxy.refuse = True
        proxy.close_all()
        await async_until("it has tried", lambda: proxy.refused)
        proxy.refuse = False
        await holder.leases.release([fence])
        await starting
        world.app = app
        id = await world.post()
        await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)
        await app.stop()


async def test_events_whose_claims_are_committed_without_an_answer_are_sent_once(
    tmp_path: Path,
    silenced_logs: None,
    monkeypatch: pytest.MonkeyPatch,
    proxy: CommitProxy,
    holder: SqlStore,
) -> None:
    async with opened(tmp_path, proxy.url) as world:
        world.answer()
        async with world.running() as app:
            await async_until("it runs", lambda: app.connections.running)
            claim, lost = app.store.outbox.claim, [0]

            async def losing(*args: Any, **options: Any) -> Claim | None:
                proxy.lose = int(lost[0] < 3)
                try:
                    return await claim(*args, **options)
                except StoreError:
                    lost[0] += 1
                    raise
                finally:
                    proxy.lose = 0

            monkeypatch.setattr(app.store.outbox, "claim", losing)
            ids = set()
            while lost[0] < 3:
                ids.add(await world.post())
                await async_until("it is delivered", lambda: set(world.klaviyo.unique_ids()) == ids)
            assert set(world.klaviyo.unique_ids().values()) == {1}
            assert world.klaviyo.state()["duplicates"] == 0


async def test_claims_in_lanes_that_come_with_a_reload_are_released(
    tmp_path: Path, silenced_logs: None, postgres_url: str, holder: SqlStore
) -> None:
    """A process was killed, and one without the connection has taken the account's lease."""
    async with opened(tmp_path, postgres_url) as world:
        world.answer()
        renamed = tmp_path / "other.toml"
        renamed.write_text(world.mapping.read_text().replace('prefix = ""', 'prefix = "Other "'))
        one, two = world.connection("one"), world.connection("two", mapping=str(renamed))
        two = two.replace("[connections.settings]", 'modules = ["events"]\n[connections.settings]')
        world.configure(one, two)
        async with world.running() as app:
            both = {"one", "two"}
            await async_until("the account is known", lambda: app.connections.running == both)
            await async_until("its lease is taken", lambda: app.runtimes["two"].lease.valid())
            account = app.runtimes["two"].lease.resource
            assert (await app.commands.execute("pause", {"connection": "two"}))[0]
            id = await world.post("two")
            world.configure(one)
            await app.reload()
            fence, now = app.leases.of(account).fence, Millis(app.clock.now() + _READ_WAIT)
            lanes = [lane for lane, _ in await app.store.lanes.all() if lane.connection == "two"]
            [lane] = [lane for lane in lanes if lane.kind == "event"]
            assert await app.store.outbox.claim(
                lane, fence, now=now, limit=9, mode=DeliveryMode.BATCH, mapping=""
            )
            world.configure(one, two)
            await app.reload()
            assert (await app.commands.execute("resume", {"connection": "two"}))[0]
            await async_until("it is delivered", lambda: world.klaviyo.recorded(id) == 1)


async def test_a_reload_during_a_hand_over_releases_what_stopped_lanes_had_claimed(
    world: World,
) -> None:
    """A lease that is handed over in vain is activated with what runs then."""
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        lease, reads = app.leases.of("store"), app.runtimes["acme"].reads
        assert reads is not None
        lane, queue = reads.lane, app.store.reads
        assert (await app.commands.execute("pause", {"connection": "acme"}))[0]
        await world.post()
        claim = await queue.claim(
            lane,
            lease.fence,
            now=app.clock.now(),
            limit=1,
            mode=DeliveryMode.BATCH,
            mapping="",
        )
        assert claim
        lease.suspend()
        await app._takeover.recover({"store": {lane.id}})
        lease.activate()
        ready = await queue.ready(lane.id, now=app.clock.now(), limit=1)
        assert ready.total == 1


async def test_an_action_whose_platform_was_replaced_waits_for_a_persons_decision(
    tmp_path: Path, silenced_logs: None, postgres_url: str, holder: SqlStore
) -> None:
    """A process was killed while it sent the action, and the connection has another platform by
    now."""
    async with opened(tmp_path, postgres_url) as world:
        world.answer()
        clock = SystemClock()
        lane = await holder.lanes.ensure("acme", "yotpo", "action")
        action = Action("adjust", email="ana@example.com", amount=5, reason="r")
        request = ActionRequest(action, "points/adjust", "k")
        batch = ActionBatch(lane, "flow", [request], clock.now(), Caps(3))
        await holder.action_intake.add([batch])
        account = world.klaviyo.account_id
        fence = await holder.leases.acquire(account, "killed", now=clock.now(), ttl=_TTL)
        assert isinstance(fence, Fence)
        assert await holder.actions.claim(
            lane, fence, now=clock.now(), limit=1, mode=DeliveryMode.BATCH, mapping=""
        )
        await holder.leases.release([fence])
        async with world.running() as app:
            await async_until("its lease is taken", lambda: app.leases.of(account).valid())
            [found] = await app.store.action_views.find()
            assert found.state == "uncertain"
            decided = await app.store.action_decisions.decide(
                found.id, "applied", by="ana", now=clock.now()
            )
            assert not isinstance(decided, str), decided


async def test_a_late_answer_does_not_end_the_pause_that_another_process_has_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused() -> Sequence[Check]:
        return [Check("key", "fault")]

    # Without a read of the person, the record is ready for the probe.
    only_events = 'modules = ["events"]\nsource ='
    world.configure(world.connection().replace("source =", only_events, 1))
    async with world.running() as app:
        await async_until("it runs", lambda: app.connections.running)
        events, thief = app.runtimes["acme"].events, Thief(app.store)
        # Without a record, a probe is a check, which would wait for its answer.
        monkeypatch.setattr(events._sink, "check", refused)
        await events._switch.stop("blocked", Problem.KLAVIYO_KEY)
        world.klaviyo_gate.open.clear()
        await world.post()
        events.probe_now()
        await async_until("a probe waits for its answer", lambda: events.busy)
        await async_until("it was sent", lambda: "/api/events" in world.klaviyo_gate.waiting)
        await thief.take()
        await async_until("the loss is noticed", lambda: not is_deliverable(app))
        await thief.pause()
        world.answer()
        await async_until("it was answered", lambda: not events.busy)
        states = {lane.id: state.mode for lane, state in await app.store.lanes.all()}
        assert states[events.lane.id] == "paused"
