"""The loop on virtual time, by itself."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from .loop import Deadlock, Owner, SimulatedLoop


def order_of(seed: int) -> list[int]:
    """The order in which five tasks that are ready together run."""
    loop, order = SimulatedLoop(random.Random(seed)), list[int]()

    async def note(number: int) -> None:
        order.append(number)

    async def main() -> None:
        await asyncio.gather(*(note(number) for number in range(5)))

    loop.run_until_complete(main())
    loop.close()
    return order


def test_the_order_of_ready_tasks_is_the_seeds() -> None:
    orders = [order_of(seed) for seed in range(20)]
    assert orders == [order_of(seed) for seed in range(20)]
    assert len(set(map(tuple, orders))) > 10


def test_time_passes_only_while_nothing_is_ready() -> None:
    loop = SimulatedLoop(random.Random(1))

    async def a_day() -> float:
        await asyncio.sleep(86_400.0)
        return loop.time()

    assert loop.run_until_complete(a_day()) == pytest.approx(86_400.0)
    with pytest.raises(Deadlock):
        loop.run_until_complete(asyncio.Event().wait())
    loop.close()


def test_no_timer_ends_early_while_something_else_is_ready() -> None:
    loop, seen = SimulatedLoop(random.Random(1)), list[float]()

    async def note_at(moment: float) -> None:
        await asyncio.sleep(moment - loop.time())
        seen.append(loop.time())

    async def main() -> float:
        await asyncio.sleep(86.954)
        moment = math.nextafter(loop.time(), math.inf)
        noting = asyncio.create_task(note_at(moment))
        for _ in range(20):
            await asyncio.sleep(0)
        await noting
        return moment

    moment = loop.run_until_complete(main())
    loop.close()
    assert seen == [moment]


def test_a_frozen_process_runs_nothing_and_continues_where_it_was() -> None:
    loop, owner, seen = SimulatedLoop(random.Random(1)), Owner(), list[float]()

    async def tick() -> None:
        for _ in range(3):
            await asyncio.sleep(1.0)
            seen.append(loop.time())

    async def main() -> None:
        loop.spawn(owner, tick())
        await asyncio.sleep(1.5)
        owner.condition = "frozen"
        await asyncio.sleep(60.0)
        assert len(seen) == 1
        loop.thaw(owner)
        await asyncio.sleep(5.0)
        owner.condition = "dead"

    loop.run_until_complete(main())
    loop.close()
    assert seen == pytest.approx([1.0, 61.5, 62.5])
