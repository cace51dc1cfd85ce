"""The processes' store: one database in memory, reached by each process with delays and faults."""

from __future__ import annotations

import asyncio
import inspect
import random
import sqlite3
from collections import namedtuple
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar, cast

from sqlalchemy import Connection, Select
from sqlalchemy.sql.compiler import SQLCompiler

from connector.domain.errors import Problem, StoreError
from connector.store.engine_errors import store_errors
from connector.store.memory import empty_database, empty_pages
from connector.store.sqlite import Work

T = TypeVar("T")

Fault = Literal["before", "after"]
"""The call fails before its commit, or after it: the answer is lost."""


class Disk:
    """The database itself, empty. What `execute` commits survives every process.

    All share one engine, which keeps compiled statements, and one connection, which SQLAlchemy
    would otherwise prepare for every call: making a new one is to empty it.
    """

    def __init__(self) -> None:
        self._connection = _connection()
        self.engine = self._connection.engine
        self._sqlite = _raw(self._connection)
        _empty(self._sqlite)

    def execute(self, work: Work[T]) -> T:
        """Do `work` in one transaction."""
        self._sqlite.execute("BEGIN")
        try:
            result = work(self._connection)
        except BaseException:
            self._sqlite.rollback()
            raise
        self._sqlite.commit()
        return result

    def look(self, work: Work[T]) -> T:
        """Do `work`, which only reads. Nothing runs meanwhile, so it needs no transaction."""
        return work(self._connection)

    def rows(self, query: Select[Any], **values: Any) -> list[Any]:
        """The rows, as named tuples. `query` is a constant: it is compiled once. `values` are those
        of its bind parameters."""
        compiled, make = _prepared(query)
        given = compiled.construct_params(values)
        found = self._sqlite.execute(str(compiled), [given[n] for n in compiled.positiontup or ()])
        return [make(row) for row in found.fetchall()]


@cache
def _connection() -> Connection:
    connection = empty_database().connect()
    # Nothing is left to read of a database in memory.
    _raw(connection).execute("PRAGMA secure_delete=OFF")
    return connection


def _empty(c: sqlite3.Connection) -> None:
    """As a new database is. A copy of its pages would have every statement compiled again."""
    c.execute("BEGIN")
    for name, rows in _first_rows().items():
        c.execute(f'DELETE FROM "{name}"')
        for row in rows:
            c.execute(f'INSERT INTO "{name}" VALUES ({", ".join("?" * len(row))})', row)
    c.commit()


@cache
def _first_rows() -> dict[str, list[Any]]:
    """By table: what a new database has."""
    pages = empty_pages()
    names = pages.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {name: pages.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in names}


@cache
def _prepared(query: Select[Any]) -> tuple[SQLCompiler, Callable[[Any], Any]]:
    compiled: Any = query.compile(
        dialect=_connection().dialect, compile_kwargs={"render_postcompile": True}
    )
    row: Any = namedtuple("row", query.selected_columns.keys())
    return compiled, row._make


def _raw(connection: Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, connection.connection.driver_connection)


def name_of(work: Any) -> str:
    """The call of the store that this work belongs to, as `SqlOutbox.claim`."""
    work = inspect.unwrap(work)
    work = getattr(work, "func", work)
    name: str = work.__qualname__.partition(".<locals>")[0]
    if "self" not in work.__code__.co_freevars:
        return name
    of = work.__closure__[work.__code__.co_freevars.index("self")].cell_contents
    return f"{type(of).__name__}.{name.rpartition('.')[2]}"


class FaultyDatabase:
    """connector.store.database.Database of one process. `planned_fault(call, name)` says how the
    call of that number and name fails, if it does; `on_commit(name, result)` is called when one
    was committed, and before its caller knows."""

    def __init__(self, disk: Disk, rng: random.Random) -> None:
        self.engine = disk.engine
        self.calls = 0
        self.slow = False
        self.planned_fault: Callable[[int, str], Fault | None] = lambda call, name: None
        self.on_commit: Callable[[str, Any], None] = lambda name, result: None
        self.dead = False
        self._disk = disk
        self._rng = rng

    async def write(self, work: Work[T], *, patient: bool = False) -> T:
        return await self._call(self._disk.execute, work)

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        return await self._call(self._disk.look, work)

    async def _call(self, do: Callable[[Work[T]], T], work: Work[T]) -> T:
        self.calls += 1
        name = name_of(work)
        fault = self.planned_fault(self.calls, name)
        await self._pause()
        if fault == "before":
            raise StoreError(Problem.STORE_UNAVAILABLE, "planned fault")
        try:
            result = do(work)
        except Exception:
            with store_errors():
                raise
        self.on_commit(name, result)
        await self._pause()
        if fault == "after":
            raise StoreError(Problem.STORE_UNAVAILABLE, "planned fault, answer lost")
        return result

    async def empty_log(self) -> bool:
        return True

    async def aclose(self) -> None: ...

    def fault(self) -> None:
        """It has no file that could be damaged."""

    async def _pause(self) -> None:
        if self.slow and self._rng.random() < 0.3:
            await asyncio.sleep(self._rng.random() * 0.2)
        else:
            await asyncio.sleep(0)
        if self.dead:
            raise asyncio.CancelledError
