"""Connections that start together and use one credential share one quota."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from connector.governor import Limit
from connector.lines.quotas import Quotas
from connector.metrics import Metrics
from connector.model import Spend
from connector.testing.clock import FakeClock

LIMITS = {"events": Limit(10, 100)}


async def test_the_quota_of_one_account_is_one_however_many_ask_at_once() -> None:
    asked = 0

    async def spent(*, since_second: int) -> list[Spend]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return []

    store: Any = SimpleNamespace(memory=SimpleNamespace(spent=spent))
    quotas = Quotas(store, FakeClock(), Metrics("test"))
    shares = {"a": 0.5, "b": 0.2, "c": 0.9}
    made = await asyncio.gather(
        *(quotas.of("K", LIMITS, connection=name, share=share) for name, share in shares.items())
    )
    assert asked > 1, "they did not ask at the same time"
    assert len({id(governor) for governor in made}) == 1
    granted = [governor.reserve("events", 10).count for governor in made]
    assert sum(granted) == 2  # the smallest share of those that use it
