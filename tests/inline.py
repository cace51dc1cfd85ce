"""A database without threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine

T = TypeVar("T")


class InlineDatabase:
    """connector.store.database.Database without threads, so that a fake clock rules all. After
    `dead` nothing is written any more, as after a kill."""

    dialect = "sqlite"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dead = False

    async def write(self, work: Callable[[Connection], T]) -> T:
        if self.dead:
            raise asyncio.CancelledError
        with self.engine.begin() as c:
            return work(c)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self.write(work)

    async def aclose(self) -> None: ...
