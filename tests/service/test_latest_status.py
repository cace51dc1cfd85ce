"""One status for many readers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from connector.domain.errors import Problem, StoreError
from connector.service.latest_status import LatestStatus
from connector.testing.fakes.clock import FakeClock


class Builds:
    """Numbered results, each given out once `go` is set."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.go.set()

    async def __call__(self) -> Any:
        self.begun += 1
        number = self.begun
        await self.go.wait()
        if self.error:
            raise self.error
        return number


async def test_readers_of_one_second_share_a_status() -> None:
    clock, builds = FakeClock(), Builds()
    latest = LatestStatus(builds, clock)
    assert await asyncio.gather(*(latest.get() for _ in range(50))) == [1] * 50
    await clock.advance(0.9)
    assert await latest.get() == 1
    await clock.advance(0.1)
    assert await latest.get() == 2


async def test_a_change_of_a_person_is_in_the_next_one() -> None:
    builds = Builds()
    latest = LatestStatus(builds, FakeClock())
    builds.go.clear()
    before = asyncio.create_task(latest.get())
    await asyncio.sleep(0)
    latest.expire()
    after = asyncio.create_task(latest.get())
    await asyncio.sleep(0)
    builds.go.set()
    assert await asyncio.gather(before, after) == [1, 2]


async def test_while_a_status_takes_long_one_more_is_built_for_all_who_wait() -> None:
    clock, builds = FakeClock(), Builds()
    latest = LatestStatus(builds, clock)
    builds.go.clear()
    first = asyncio.create_task(latest.get())
    await clock.advance(5.0)
    later = [asyncio.create_task(latest.get()) for _ in range(50)]
    await asyncio.sleep(0)
    builds.go.set()
    assert await first == 1
    assert await asyncio.gather(*later) == [2] * 50


async def test_one_reader_who_leaves_costs_the_others_nothing() -> None:
    builds = Builds()
    latest = LatestStatus(builds, FakeClock())
    builds.go.clear()
    leaves, stays = (asyncio.create_task(latest.get()) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    builds.go.set()
    assert await stays == 2


async def test_a_failure_is_not_kept() -> None:
    builds = Builds()
    latest = LatestStatus(builds, FakeClock())
    builds.error = StoreError(Problem.STORE_UNAVAILABLE, "by a test")
    with pytest.raises(StoreError):
        await latest.get()
    builds.error = None
    assert await latest.get() == 2
