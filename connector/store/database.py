"""One writer, many readers; the same sync functions on both engines.

Every statement of the store is inside a function `work(connection)`. On SQLite one thread runs
them and commits what has queued up meanwhile as a group, so that an fsync is shared; on PostgreSQL
each runs in its own transaction through SQLAlchemy's asyncio bridge. A `work` may be run twice
(after a rollback), so it must have no effect but on the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import uuid4

from sqlalchemy import Engine, ExceptionContext, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from connector.domain.errors import Problem, StoreError
from connector.store.engine_errors import is_collision, to_store_error
from connector.store.sqlite import SqliteDatabase, Work

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")
Marked = TypeVar("Marked", bound=Callable[..., Any])
_READ_ONLY = "25006"
_ATTEMPTS = 3
"""Of a transaction that collides with another process's."""
ANSWER_LIMIT = 10.0
"""Seconds for a transaction that no person waits for, which needs a fraction of one. What takes
longer is given up on both sides: a cut connection would hold its caller for a quarter of an hour
here, and its locks for hours at the server."""
_CLOSE_TIMEOUT = 1.0
"""Seconds for transactions whose callers were cancelled."""


class Database(Protocol):
    """Runs work in transactions. Raises StoreError: STORE_UNAVAILABLE when the engine fails,
    STORE_REFUSED when it will never take this work, STORE_DAMAGED where it meets damage,
    STORE_REPLACED when the file is not the one that was opened. It is a StoreOutage where no other
    work would have succeeded."""

    @property
    def engine(self) -> Engine:
        """The engine that runs all statements, for listeners."""
        ...

    async def write(self, work: Work[T], *, patient: bool = False) -> T:
        """`patient`: nothing waits for the work. On SQLite it shares the next commit, if there is
        one within 10 ms."""
        ...

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        """`brief`: work that looks up a few rows by an index. On SQLite it is done at once, because
        handing it to a thread costs more."""
        ...

    async def empty_log(self) -> bool:
        """Move what is committed into the database and leave none of it in a log; whether that was
        possible. True without effect where the engine does it by itself."""
        ...

    def locked_by(self) -> str | None:
        """The program that holds the write lock now, in words; None: none, or the engine has no
        such lock."""
        ...

    def fault(self) -> StoreError | None:
        """Why nothing may be acknowledged any more, until a person has acted: damage that was met,
        or a file that was replaced. None: nothing of the kind is known."""
        ...

    async def aclose(self) -> None: ...


def on_request(work: Marked) -> Marked:
    """Marks work that reads whole tables and that nothing runs but what a person asked for. All
    other statements are explained in tests (tests/store/plans.py) and have a limit of time."""
    work.on_request = True  # type: ignore[attr-defined]
    return work


def open_database(url: str) -> Database:
    """`sqlite:///path` or `postgresql://user:pw@host/db`, as in `postgres_engine`; any other scheme
    is a StoreError."""
    scheme = make_url(url).get_backend_name()
    if scheme == "sqlite":
        return SqliteDatabase(url)
    if scheme == "postgresql":
        return PostgresDatabase(url)
    raise StoreError(Problem.STORE_UNAVAILABLE, f"no store for {scheme}: sqlite or postgresql")


def is_pooled(url: str) -> bool:
    """Whether a pooler gives each transaction another connection: `?pooler=transaction`. Raises
    StoreError for another value."""
    value = make_url(url).query.get("pooler")
    if value not in (None, "transaction"):
        raise StoreError(Problem.STORE_UNAVAILABLE, f"pooler={value}: only `transaction` is known")
    return value is not None


def create_async_engine(url: URL, **options: Any) -> AsyncEngine:
    """SQLAlchemy's, which a store on SQLite does not import."""
    from sqlalchemy.ext.asyncio import create_async_engine

    return create_async_engine(url, **options)


def postgres_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine for `postgresql://user:pw@host/db`, with `?pooler=transaction` where PgBouncer or
    another pooler is between. Raises StoreError."""
    address = make_url(url).set(drivername="postgresql+asyncpg")
    if is_pooled(url):
        address = address.difference_update_query(["pooler"])
        # A statement that one server connection has prepared is unknown to the next, and its name
        # may be taken there.
        options["connect_args"] = {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"connector_{uuid4().hex}",
        }
    else:
        # A pooler refuses settings that it does not know, and has one of its own for this.
        idle = {"idle_in_transaction_session_timeout": str(round(ANSWER_LIMIT * 1000))}
        options["connect_args"] = {"server_settings": idle}
    return create_async_engine(address, **options)


def _leave_read_only(context: ExceptionContext) -> None:
    """A connection that refuses writes may do so for as long as it lives: a server that a failover
    has made a standby, a default that was set when it began. All of the pool are replaced."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


class PostgresDatabase:
    """A pool of asyncpg connections, one transaction for each piece of work. Where the caller is
    cancelled it ends by itself, as on SQLite: cut off, its connection would be lost."""

    def __init__(self, url: str) -> None:
        self._engine = postgres_engine(url, pool_size=8, pool_pre_ping=True)
        event.listen(self.engine, "handle_error", _leave_read_only)
        self._running: set[asyncio.Future[Any]] = set()

    @property
    def engine(self) -> Engine:
        return self._engine.sync_engine

    async def write(self, work: Work[T], *, patient: bool = False) -> T:
        running = asyncio.ensure_future(self._transact(work))
        self._running.add(running)
        running.add_done_callback(self._ended)
        return await asyncio.shield(running)

    def _ended(self, running: asyncio.Future[Any]) -> None:
        self._running.discard(running)
        if not running.cancelled():
            running.exception()  # its caller may have been cancelled

    async def _transact(self, work: Work[T]) -> T:
        limit = None if getattr(work, "on_request", False) else ANSWER_LIMIT
        try:
            async with asyncio.timeout(limit):
                return await self._attempt(work)
        except TimeoutError as error:
            detail = f"no answer for {ANSWER_LIMIT:g} s"
            raise StoreError(Problem.STORE_UNAVAILABLE, detail) from error

    async def _attempt(self, work: Work[T]) -> T:
        for left in reversed(range(_ATTEMPTS)):
            try:
                async with self._engine.begin() as connection:
                    return await connection.run_sync(work)
            except (SQLAlchemyError, OSError) as error:
                if not (left and is_collision(error)):
                    raise to_store_error(error) from error
        raise AssertionError("the last attempt returns or raises")

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        return await self.write(work)

    async def empty_log(self) -> bool:
        return True

    def locked_by(self) -> str | None:
        return None

    def fault(self) -> StoreError | None:
        return None

    async def aclose(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSE_TIMEOUT)
        await self._engine.dispose()
