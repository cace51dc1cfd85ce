"""Connections that start together and use one credential share one quota."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from connector.app.wiring.limiters import RateLimiters
from connector.domain.lanes import QuotaUsage
from connector.net.rate_limit import Limit, RateLimiter
from connector.runtime.metrics import Metrics
from connector.testing.fakes.clock import FakeClock

LIMITS = {"events": Limit(10, 100)}


async def test_concurrent_callers_of_one_account_share_one_quota() -> None:
    lookups = 0

    async def usage_since(account: str, since: Mapping[str, int]) -> list[QuotaUsage]:
        nonlocal lookups
        lookups += 1
        await asyncio.sleep(0)
        return []

    store: Any = SimpleNamespace(facts=SimpleNamespace(usage_since=usage_since))
    limiters = RateLimiters(store, FakeClock(), Metrics("test"))
    shares = {"a": 0.5, "b": 0.2, "c": 0.9}
    made = await asyncio.gather(
        *(limiters.of("K", LIMITS, connection=name, share=share) for name, share in shares.items())
    )
    assert lookups > 1, "the lookups did not overlap"
    assert len({id(limiter) for limiter in made}) == 1
    granted = [limiter.reserve("events", 10).count for limiter in made]
    assert sum(granted) == 2  # the smallest share of those that use it


async def test_the_lowest_limit_of_those_that_share_a_credential_counts() -> None:
    """Whichever of them a reload has built last, and only as long as it is there."""

    async def usage_since(account: str, since: Mapping[str, int]) -> list[QuotaUsage]:
        return []

    store: Any = SimpleNamespace(facts=SimpleNamespace(usage_since=usage_since))
    limiters = RateLimiters(store, FakeClock(), Metrics("test"))
    await limiters.of("K", {"reads": Limit(2, 20)}, connection="two")
    limiter = await limiters.of("K", {"reads": Limit(10, 100)}, connection="one")
    assert limiter.limits == {"reads": Limit(2, 20)}
    with limiters.replacing(kept={"one"}):
        pass  # the other one was removed
    assert limiter.limits == {"reads": Limit(10, 100)}


async def test_the_share_of_a_removed_connection_does_not_count_for_the_next_one() -> None:
    """One whose account is learned later is built alone, outside a reload."""

    async def usage_since(account: str, since: Mapping[str, int]) -> list[QuotaUsage]:
        return []

    store: Any = SimpleNamespace(facts=SimpleNamespace(usage_since=usage_since))
    limiters = RateLimiters(store, FakeClock(), Metrics("test"))
    await limiters.of("K", LIMITS, connection="old", share=0.2)
    with limiters.replacing(kept=set()):
        pass  # it was removed
    limiter = await limiters.of("K", LIMITS, connection="new", share=1.0)
    assert limiter.reserve("events", 10).count == 10


async def test_a_limiter_may_be_dropped_while_another_connection_asks_for_it() -> None:
    """Klaviyo names the account of a key while connections that use it are built."""

    async def usage_since(account: str, since: Mapping[str, int]) -> list[QuotaUsage]:
        limiters.drop("K")
        return []

    store: Any = SimpleNamespace(facts=SimpleNamespace(usage_since=usage_since))
    limiters = RateLimiters(store, FakeClock(), Metrics("test"))
    limiter = await limiters.of("K", LIMITS, connection="a", share=0.2)
    assert limiter.reserve("events", 10).count == 2
    assert [names for _, names, *_ in limiters.usage()] == [("a",)]


class Slow:
    """A remote API that counts calls by the second they arrive in. The way there takes as long as
    the test says; the answer takes no time."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.max_concurrent = 0
        self._counts: dict[int, int] = {}

    async def call(self, takes: float) -> None:
        await self._clock.sleep(takes)
        second = int(self._clock.monotonic())
        self._counts[second] = self._counts.get(second, 0) + 1
        self.max_concurrent = max(self.max_concurrent, self._counts[second])


@pytest.mark.parametrize("apart", [True, False])
async def test_spaced_requests_never_arrive_together(apart: bool) -> None:
    clock = FakeClock()
    limiter = RateLimiter("K", {"x": Limit(5, 300)}, clock=clock, share=1.0)
    server, rng = Slow(clock), random.Random(3)

    async def one() -> None:
        while not (grant := limiter.reserve("x", 1)).count:
            await clock.sleep(grant.wait)
        takes = rng.choice((0.01, 0.05, 0.9, 2.5))
        if not apart:
            return await server.call(takes)
        async with limiter.spacing("x"):
            await server.call(takes)

    calls = [asyncio.create_task(one()) for _ in range(100)]
    began = clock.monotonic()
    while not all(call.done() for call in calls):
        await clock.advance(0.05)
    # Without it the same way passes the limit: the test would see it.
    assert (server.max_concurrent <= 5) == apart
    if apart:
        assert clock.monotonic() - began < 100 / 5 * 4
