"""The lease of a store: who waits for what, and when deliveries are allowed."""

from __future__ import annotations

import asyncio

import pytest

from connector.domain.errors import Problem, StoreError
from connector.pipeline.lease import TTL, LeaseRenewer
from connector.ports import Fence
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.store import InlineDatabase, memory_store

UNAVAILABLE = StoreError(Problem.STORE_UNAVAILABLE, "by a test")


class Rig:
    def __init__(self) -> None:
        self.clock, self.database = FakeClock(), InlineDatabase()
        self.store = memory_store(self.database)
        self.lease = LeaseRenewer(self.store, self.clock, "us")
        self.lost = 0

    def note_loss(self) -> None:
        self.lost += 1

    async def acquire_by(self, holder: str) -> Fence:
        fence = await self.store.leases.acquire(
            "store", holder, now=self.clock.now(), ttl=round(TTL * 1000)
        )
        assert isinstance(fence, Fence)
        return fence


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_a_standby_waits_for_a_store_that_is_unavailable(
    rig: Rig, silenced_logs: None
) -> None:
    other = await rig.acquire_by("other")
    waiting = asyncio.create_task(rig.lease.acquire(float("inf")))
    await rig.clock.advance(3.0)
    rig.database.error = UNAVAILABLE
    await rig.clock.advance(30.0)
    assert not waiting.done()
    rig.database.error = None
    await rig.store.leases.release(other)
    await rig.clock.advance(2.0)
    assert (await waiting).holder == "us"
    rig.lease.activate()
    assert rig.lease.valid()


async def test_with_a_time_limit_an_unavailable_store_is_an_error(
    rig: Rig, silenced_logs: None
) -> None:
    rig.database.error = UNAVAILABLE
    waiting = asyncio.create_task(rig.lease.acquire(5.0))
    await rig.clock.advance(4.0)
    assert not waiting.done()
    await rig.clock.advance(2.0)
    with pytest.raises(StoreError) as caught:
        await waiting
    assert caught.value.problem is Problem.STORE_UNAVAILABLE


async def test_a_lease_is_neither_valid_nor_a_fence_before_it_is_activated(rig: Rig) -> None:
    fence = await rig.lease.acquire(0.0)
    assert not rig.lease.valid()
    with pytest.raises(StoreError) as caught:
        _ = rig.lease.fence
    assert caught.value.problem is Problem.STORE_HELD
    rig.lease.activate()
    assert rig.lease.valid()
    assert rig.lease.fence == fence


@pytest.mark.parametrize("fault", [UNAVAILABLE, KeyError("a fault of ours")])
async def test_a_renewal_that_fails_is_repeated(
    rig: Rig, fault: Exception, silenced_logs: None
) -> None:
    await rig.lease.acquire(0.0)
    rig.lease.start_renewing(rig.note_loss)
    rig.lease.activate()
    rig.database.error = fault
    await rig.clock.advance(9.0)
    assert rig.lease.valid()
    await rig.clock.advance(2.0)
    assert not rig.lease.valid(), "it may have ended"
    rig.database.error = None
    await rig.clock.advance(4.0)
    assert rig.lease.valid()
    assert rig.lost == 0
    await rig.lease.release()


async def test_a_lease_that_another_holder_took_is_lost_for_good(
    rig: Rig, silenced_logs: None
) -> None:
    await rig.lease.acquire(0.0)
    rig.lease.start_renewing(rig.note_loss)
    rig.lease.activate()
    rig.clock.move(TTL + 1)
    await rig.acquire_by("other")
    await rig.clock.advance(5.0)
    assert rig.lost == 1
    assert not rig.lease.valid()
    await rig.lease.release()
    held = await rig.store.leases.holder("store")
    assert held
    assert held.holder == "other"
