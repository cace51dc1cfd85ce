"""One writer, many readers; the same sync functions on both engines.

Every statement of the store is inside a function `work(connection)`. On SQLite one thread runs
them and commits what has queued up meanwhile as a group, so that an fsync is shared; on PostgreSQL
each runs in its own transaction through SQLAlchemy's asyncio bridge. A `work` may be run twice
(after a rollback), so it must have no effect but on the database.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from connector.domain.errors import Problem, StoreError

T = TypeVar("T")
Work = Callable[[Connection], T]

_MAX_GROUP = 256
_WRITER_CACHE, _READER_CACHE = 16_384, 4_096
"""KiB of pages: SQLite fills them as the file grows, so they are what a long backlog costs."""


class Database(Protocol):
    """Runs work in transactions. Raises StoreError: STORE_UNAVAILABLE when the engine fails,
    STORE_REFUSED when it will never take this work, STORE_DAMAGED where it meets damage."""

    @property
    def engine(self) -> Engine:
        """The engine that runs all statements, for listeners."""
        ...

    async def write(self, work: Work[T]) -> T: ...

    async def read(self, work: Work[T]) -> T: ...

    async def aclose(self) -> None: ...


def open_database(url: str) -> Database:
    """`sqlite:///path` or `postgresql://user:pw@host/db`; any other scheme is a StoreError."""
    scheme = make_url(url).get_backend_name()
    if scheme == "sqlite":
        return SqliteDatabase(url)
    if scheme == "postgresql":
        return PostgresDatabase(url)
    raise StoreError(Problem.STORE_UNAVAILABLE, f"no store for {scheme}: sqlite or postgresql")


def sqlite_engine(url: str) -> Engine:
    """WAL with synchronous=FULL: a commit that was answered survives a power cut."""
    path = make_url(url).database
    if path and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 10})

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None
        if connection.execute("PRAGMA page_count").fetchone() == (0,):
            # Only a new file takes the setting; on an old one it would be a write at each start.
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in (
            "journal_mode=WAL",
            "journal_size_limit=67108864",
            "synchronous=FULL",
            "busy_timeout=10000",
            "temp_store=MEMORY",
            f"cache_size=-{_READER_CACHE}",
            "wal_autocheckpoint=4000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


class SqliteDatabase:
    """A writer thread that commits groups, and a few reader threads beside it."""

    def __init__(self, url: str) -> None:
        self.engine = sqlite_engine(url)
        self._jobs: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="store-read")
        self._thread = threading.Thread(target=self._run, name="store-write", daemon=True)
        self._closed = False
        self._writer: Connection | None = None
        self._thread.start()

    async def write(self, work: Work[T]) -> T:
        if self._closed:
            raise StoreError(Problem.STORE_UNAVAILABLE, "the store is closed")
        done: Future[T] = Future()
        self._jobs.put((work, done))
        return await asyncio.wrap_future(done)

    async def read(self, work: Work[T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, work)

    async def aclose(self) -> None:
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._readers.shutdown()
        self.engine.dispose()

    def _read(self, work: Work[T]) -> T:
        with store_errors(), self.engine.connect() as connection:
            return work(connection)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = [job]
            last = False
            while len(group) < _MAX_GROUP and not self._jobs.empty():
                follower = self._jobs.get()
                if follower is None:
                    last = True
                    break
                group.append(follower)
            self._commit(group)
            if last:
                break
        if self._writer is not None:
            self._writer.close()

    def _commit(self, group: list[tuple[Work[Any], Future[Any]]]) -> None:
        """Run the group in one transaction. When a piece of work fails, each is run in its own, so
        that it fails alone. When the database itself fails, all have failed."""
        live = [job for job in group if not job[1].cancelled()]
        working = False
        try:
            connection = self._writer = self._writer or self._open_writer()
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            working = True
            results = [work(connection) for work, _ in live]
            working = False
            connection.commit()
        except Exception as error:
            self._roll_back()
            if working and len(live) > 1:
                for job in live:
                    self._commit([job])
            else:
                for _, done in live:
                    _finish(done, error=error)
            return
        for (_, done), result in zip(live, results, strict=True):
            _finish(done, result=result)

    def _open_writer(self) -> Connection:
        connection = self.engine.connect()
        connection.exec_driver_sql(f"PRAGMA cache_size=-{_WRITER_CACHE}")
        return connection

    def _roll_back(self) -> None:
        """Leave nothing of a failed group. A connection that cannot roll back is closed."""
        connection = self._writer
        if connection is None:
            return
        try:
            connection.rollback()
        except SQLAlchemyError:
            connection.invalidate()
            connection.close()
            self._writer = None


def _finish(done: Future[Any], *, result: Any = None, error: Exception | None = None) -> None:
    if not done.set_running_or_notify_cancel():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(to_store_error(error) if isinstance(error, SQLAlchemyError) else error)


class PostgresDatabase:
    """A pool of asyncpg connections, one transaction for each piece of work."""

    def __init__(self, url: str) -> None:
        self._engine = create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"), pool_size=8, pool_pre_ping=True
        )

    @property
    def engine(self) -> Engine:
        return self._engine.sync_engine

    async def write(self, work: Work[T]) -> T:
        try:
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)
        except (SQLAlchemyError, OSError) as error:
            raise to_store_error(error) from error

    async def read(self, work: Work[T]) -> T:
        return await self.write(work)

    async def aclose(self) -> None:
        await self._engine.dispose()


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise an engine's error as the StoreError that it means."""
    try:
        yield
    except SQLAlchemyError as error:
        raise to_store_error(error) from error


def to_store_error(error: Exception) -> StoreError:
    """What an engine's error means, without the statement and its parameters: they hold personal
    data."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    message = str(cause).splitlines()[0][:200] if isinstance(cause, OSError | sqlite3.Error) else ""
    return StoreError(_problem(error, cause), f"{type(cause).__name__} {message}".strip())


def _problem(error: Exception, cause: BaseException) -> Problem:
    if isinstance(cause, sqlite3.Error):
        name = getattr(cause, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return Problem.STORE_DAMAGED
    # A broken constraint is none: of two inserts of the same row at once, one is repeated.
    # asyncpg names bad data by SQLSTATE 22, or finds it before it is sent.
    state = str(getattr(cause, "sqlstate", None) or "")
    if isinstance(error, DataError) or state[:2] == "22" or isinstance(cause.__cause__, ValueError):
        return Problem.STORE_REFUSED
    return Problem.STORE_UNAVAILABLE
