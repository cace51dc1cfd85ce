"""The leases of a process: when deliveries are allowed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from connector.domain.errors import Problem, StoreError
from connector.pipeline.lease import TTL, ProcessLeases
from connector.ports import Fence, Holder
from connector.testing.fakes.clock import FakeClock, run_pending
from connector.testing.fakes.store import InlineDatabase, memory_store

UNAVAILABLE = StoreError(Problem.STORE_UNAVAILABLE, "by a test")


class Rig:
    def __init__(self) -> None:
        self.clock, self.database = FakeClock(), InlineDatabase()
        self.store = memory_store(self.database)
        self.leases = ProcessLeases(self.store, self.clock, "us")
        self.lease = self.leases.of("store")
        self.lost: list[str] = []
        self.valid: list[str] = []

    def start(self) -> None:
        self.leases.start(self.lost.append, self.valid.append)

    async def acquire_by(self, holder: str) -> Fence:
        fence = await self.store.leases.acquire(
            "store", holder, now=self.clock.now(), ttl=round(TTL * 1000)
        )
        assert isinstance(fence, Fence)
        return fence


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_a_lease_that_another_process_holds_is_not_acquired(rig: Rig) -> None:
    other = await rig.acquire_by("other")
    found = await rig.leases.acquire("store")
    assert isinstance(found, Holder)
    assert found.holder == "other"
    assert rig.leases.held() == []
    await rig.store.leases.release([other])
    assert await rig.leases.acquire("store") is None
    assert rig.leases.held() == [rig.lease]


async def test_a_lease_is_neither_valid_nor_a_fence_before_it_is_activated(rig: Rig) -> None:
    assert await rig.leases.acquire("store") is None
    assert not rig.lease.valid()
    with pytest.raises(StoreError) as caught:
        _ = rig.lease.fence
    assert caught.value.problem is Problem.STORE_HELD
    rig.lease.activate()
    assert rig.lease.valid()
    assert rig.lease.fence == rig.lease.acquired


async def test_a_suspended_lease_is_renewed_and_allows_nothing(rig: Rig) -> None:
    await rig.leases.acquire("store")
    rig.start()
    rig.lease.activate()
    rig.lease.suspend()
    await rig.clock.advance(3 * TTL)
    assert not rig.lease.valid()
    held = await rig.store.leases.holders(now=rig.clock.now())
    assert not held["store"].expired
    await rig.leases.aclose()


async def test_a_lease_that_was_acquired_while_its_process_stops_is_released(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, acquire = asyncio.Event(), rig.store.leases.acquire

    async def acquire_slowly(*args: Any, **options: Any) -> Fence | Holder:
        answer = await acquire(*args, **options)
        await answered.wait()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(rig.store.leases, "acquire", acquire_slowly)
        acquiring = asyncio.create_task(rig.leases.acquire("store"))
        await run_pending()
        acquiring.cancel()
        closing = asyncio.create_task(rig.leases.aclose())
        await run_pending()
        answered.set()
        await closing
    await rig.acquire_by("other")


async def test_a_lease_is_released_where_its_hint_is_lost(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost() -> None:
        raise UNAVAILABLE

    monkeypatch.setattr(rig.store.hints, "send_released", lost)
    await rig.leases.acquire("store")
    await rig.leases.release([rig.lease])
    await rig.acquire_by("other")


@pytest.mark.parametrize("fault", [UNAVAILABLE, KeyError("a fault of ours")])
async def test_a_renewal_that_fails_is_repeated(
    rig: Rig, fault: Exception, silenced_logs: None
) -> None:
    await rig.leases.acquire("store")
    rig.start()
    rig.lease.activate()
    rig.database.error = fault
    await rig.clock.advance(7.0)
    assert rig.lease.valid()
    await rig.clock.advance(2.0)
    assert not rig.lease.valid(), "it may have ended"
    assert rig.valid == []
    rig.database.error = None
    await rig.clock.advance(4.0)
    assert rig.lease.valid()
    assert rig.lost == []
    assert rig.valid == ["store"], "whoever waited for it is woken"
    await rig.leases.aclose()


async def test_a_lease_that_another_holder_took_is_lost_for_good(
    rig: Rig, silenced_logs: None
) -> None:
    await rig.leases.acquire("store")
    rig.start()
    rig.lease.activate()
    rig.clock.move(TTL + 1)
    await rig.acquire_by("other")
    await rig.clock.advance(5.0)
    assert rig.lost == ["store"]
    assert not rig.lease.valid()
    await rig.leases.aclose()
    assert (await rig.store.leases.holders(now=rig.clock.now()))["store"].holder == "other"


async def test_each_lease_is_renewed_and_lost_by_itself(rig: Rig, silenced_logs: None) -> None:
    account = rig.leases.of("SANDBX")
    await rig.leases.acquire("store")
    await rig.leases.acquire("SANDBX")
    rig.start()
    rig.lease.activate()
    account.activate()
    assert account.acquired
    await rig.store.leases.renew([account.acquired], now=rig.clock.now(), ttl=0)
    taken = await rig.store.leases.acquire("SANDBX", "other", now=rig.clock.now(), ttl=60_000)
    assert isinstance(taken, Fence)
    await rig.clock.advance(TTL)
    assert rig.lost == ["SANDBX"]
    assert rig.lease.valid()
    assert not account.valid()
    await rig.leases.aclose()


async def test_a_renewal_that_comes_after_the_release_renews_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transactions overtake each other: what was released is free for others at once."""
    account, renew = rig.leases.of("SANDBX"), rig.store.leases.renew
    await rig.leases.acquire("store")
    await rig.leases.acquire("SANDBX")

    async def overtaken(*args: Any, **options: Any) -> frozenset[Fence]:
        await rig.leases.give_back([account])
        return await renew(*args, **options)

    monkeypatch.setattr(rig.store.leases, "renew", overtaken)
    rig.start()
    await rig.clock.advance(4.0)
    held = await rig.store.leases.holders(now=rig.clock.now())
    assert {resource for resource, holder in held.items() if holder.expired} == {"SANDBX"}
    await rig.leases.aclose()
