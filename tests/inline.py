"""A store in memory whose database has no threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import StaticPool

from connector.store.tables import metadata

T = TypeVar("T")


def memory_engine() -> Engine:
    """An empty SQLite database in memory with the schema of this version."""
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    metadata.create_all(engine)
    return engine


class InlineDatabase:
    """connector.store.database.Database without threads, so that a fake clock decides the order.

    After `dead` nothing is written any more, as after a kill. While `error` is set, every read and
    write raises it.
    """

    dialect = "sqlite"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dead = False
        self.error: Exception | None = None

    async def write(self, work: Callable[[Connection], T]) -> T:
        if self.dead:
            raise asyncio.CancelledError
        if self.error:
            raise self.error
        with self.engine.begin() as c:
            return work(c)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self.write(work)

    async def aclose(self) -> None: ...
