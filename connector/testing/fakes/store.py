"""The store on SQLite in memory, for tests under a fake clock: no file, no threads."""

from __future__ import annotations

import asyncio
import weakref
from typing import TypeVar

from connector.domain.errors import Problem, StoreError
from connector.store.engine_errors import store_errors
from connector.store.memory import empty_database
from connector.store.sql import SqlStore, store_on
from connector.store.sqlite import Work

T = TypeVar("T")


class InlineDatabase:
    """connector.store.database.Database that does its work before the caller's next step.

    While `error` is set, every call raises it. `unanswered` is how many of the next calls are
    committed and raise STORE_UNAVAILABLE all the same, as when the answer is lost. After `dead`
    nothing is written any more, as after a kill; `reopened` is the database as the next process
    finds it.
    """

    def __init__(self, other: InlineDatabase | None = None) -> None:
        self._other = other  # the last one of them closes the engine
        if other is None:
            self.engine = empty_database()
            weakref.finalize(self, self.engine.dispose)
        else:
            self.engine = other.engine
        self.dead = False
        self.error: Exception | None = None
        self.unanswered = 0

    def reopened(self) -> InlineDatabase:
        return InlineDatabase(self)

    def execute(self, work: Work[T]) -> T:
        """Do `work` in one transaction, for what a test looks at or plants."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            result = work(connection)
            connection.commit()
            return result

    async def write(self, work: Work[T], *, patient: bool = False) -> T:
        if self.dead:
            raise asyncio.CancelledError
        if self.error:
            raise self.error
        with store_errors():
            result = self.execute(work)
        if self.unanswered:
            self.unanswered -= 1
            raise StoreError(Problem.STORE_UNAVAILABLE, "the answer to a commit was lost")
        return result

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        return await self.write(work)

    async def empty_log(self) -> bool:
        return True

    def locked_by(self) -> str | None:
        return None

    def fault(self) -> StoreError | None:
        return None

    async def aclose(self) -> None: ...


def memory_store(database: InlineDatabase | None = None) -> SqlStore:
    """An empty store, or the one that `database` holds."""
    return store_on(database or InlineDatabase(), "sqlite://")
