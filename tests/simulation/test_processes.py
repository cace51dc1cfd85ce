"""Two processes on one store: single cases of what the random lives contain."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from sqlalchemy import select

from connector.domain.records import State
from connector.store.tables import outbox

from . import configs
from .loop import SimulatedLoop
from .process import Process, simulated_machine
from .world import World

T = TypeVar("T")


def simulate(scenario: Callable[[World], Awaitable[T]]) -> T:
    loop = SimulatedLoop(random.Random(1))
    world = World(loop, random.Random(1), configs.config())
    with simulated_machine(world.network, seed=1):
        try:
            return loop.run_until_complete(scenario(world))
        finally:
            loop.run_until_complete(world.end())
            loop.close()


def test_what_a_process_without_the_lease_stores_is_delivered_by_the_holder() -> None:
    """A frozen process loses its lease. When it continues it takes a webhook before it has noticed,
    and cannot wake the lanes of the other one."""

    async def scenario(world: World) -> list[State]:
        first = world.start_process()
        await asyncio.sleep(10.0)
        first.freeze()
        second = world.start_process()
        await asyncio.sleep(60.0)
        first.thaw()
        assert world.holder() is second
        sent = world.event("POINTS_ADJUSTED", world.users[0])
        await first.call(lambda: sent.deliver(first))
        assert sent.acknowledged
        await asyncio.sleep(40.0)
        return [State(row.state) for row in world.disk.rows(select(outbox.c.state))]

    assert simulate(scenario) == [State.ACCEPTED]


@pytest.mark.parametrize("comes_before", ["GET /v1/users/", "POST /oauth/token"])
def test_one_that_was_frozen_shortly_before_it_adjusts_points_leaves_that_to_the_holder(
    comes_before: str,
) -> None:
    """While it reads the person, or fetches another token: its lease was valid until then."""

    async def scenario(world: World) -> tuple[list[str], int]:
        first = world.start_process()
        await asyncio.sleep(10.0)
        frozen: list[Process] = []

        def freeze(process: Process) -> None:
            process.freeze()
            frozen.append(process)

        world.traps.set("carried out", comes_before, freeze)
        newcomer = world.wll.add("new@example.com")
        user = newcomer if "users" in comes_before else world.users[0]
        before = user.points
        world.wll.revoke()
        call = world.flow_call({"customer_id": str(user.account)}, 7)
        await first.call(lambda: call.deliver(first))
        await asyncio.sleep(5.0)
        assert frozen == [first]
        second = world.start_process()
        await asyncio.sleep(20.0)
        assert world.holder() is second
        first.thaw()
        await asyncio.sleep(60.0)
        return world.oracle.faults, user.points - before

    assert simulate(scenario) == ([], 0)
