"""What the commands share: the loop, an operator on the store, and orders that are followed."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from connector.config import Config
    from connector.operate import Operator

T = TypeVar("T")

_PATIENCE = 10.0
_LOOK_AGAIN = 0.1


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def read(path: Path | None) -> Config:
    """The configuration, and logging as it says."""
    from connector import log
    from connector.app import read_config

    config = read_config(path)
    log.configure(format=config.log.format, level=config.log.level)
    return config


@contextlib.asynccontextmanager
async def operator(config: Config) -> AsyncIterator[Operator]:
    """An operator on the configured store, whether or not a daemon runs on it."""
    from connector.clock import SystemClock
    from connector.operate import Operator
    from connector.store.sql import open_store

    store = await open_store(config.store.url, migrate=config.store.migrate)
    try:
        yield Operator(store, SystemClock())
    finally:
        await store.aclose()


async def order(
    config: Config, kind: str, args: Mapping[str, Any]
) -> tuple[bool, Mapping[str, Any]]:
    """Have an order carried out: by the running daemon, else here under the store's lease."""
    async with operator(config) as who:
        if await who.holder() is None:
            return await _alone(config, kind, args)
        id = await who.place(kind, args, by=getpass.getuser())
        for _ in range(round(_PATIENCE / _LOOK_AGAIN)):
            await asyncio.sleep(_LOOK_AGAIN)
            placed = await who.order(id)
            if placed and placed.ok is not None:
                return placed.ok, placed.result or {}
        holder = await who.holder()
    return False, {"error": f"order {id} waits: {holder or 'nobody'} has not taken it yet"}


async def _alone(
    config: Config, kind: str, args: Mapping[str, Any]
) -> tuple[bool, Mapping[str, Any]]:
    from connector.clock import SystemClock
    from connector.lease import LeaseKeeper, holder_name
    from connector.operate import Operator
    from connector.store.sql import open_store

    store = await open_store(config.store.url, migrate=config.store.migrate)
    lease = LeaseKeeper(store, SystemClock(), holder_name())
    try:
        await lease.acquire(0.0)
        try:
            return await Operator(store, SystemClock()).carry_out(kind, args)
        finally:
            await lease.release()
    finally:
        await store.aclose()
