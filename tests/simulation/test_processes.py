"""Two processes on one store: single stories that the random lives are made of."""

from __future__ import annotations

import asyncio
import random

from sqlalchemy import select

from connector.domain.records import State
from connector.store.tables import outbox

from . import configs
from .loop import SimulatedLoop
from .process import simulated_machine
from .world import World


def test_what_a_process_without_the_lease_stores_is_delivered_by_the_holder() -> None:
    """A frozen process loses its lease. When it goes on it takes a webhook before it has noticed,
    and cannot wake the lanes of the other one."""
    loop = SimulatedLoop(random.Random(1))
    world = World(loop, random.Random(1), configs.config())

    async def story() -> list[State]:
        first = world.start_process()
        await asyncio.sleep(10.0)
        first.freeze()
        second = world.start_process()
        await asyncio.sleep(60.0)
        first.go_on()
        assert world.holder() is second
        sent = world.event("POINTS_ADJUSTED", world.users[0])
        await first.call(lambda: sent.deliver(first))
        assert sent.acknowledged
        await asyncio.sleep(40.0)
        return [State(row.state) for row in world.disk.rows(select(outbox.c.state))]

    with simulated_machine(world.network, seed=1):
        try:
            states = loop.run_until_complete(story())
        finally:
            loop.run_until_complete(world.end())
    loop.close()
    assert states == [State.ACCEPTED]
