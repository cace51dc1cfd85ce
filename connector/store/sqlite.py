"""SQLite: a writer thread that commits groups, and a few reader threads beside it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, FromClause, create_engine, event, text
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from connector.domain.errors import Problem, StoreError, StoreLocked, StoreOutage
from connector.store import file_users
from connector.store.engine_errors import ENGINE_ERRORS, is_busy, to_store_error
from connector.store.prepared import Prepared
from connector.store.sqlite_file import SqliteFile, damaged, locked

T = TypeVar("T")
Work = Callable[[Connection], T]

_MAX_GROUP = 256
_PATIENCE = 0.01
"""Seconds that what nothing waits for waits for a commit to share."""
_WRITER_CACHE, _READER_CACHE = 16_384, 4_096
"""KiB of pages: SQLite fills them as the file grows, so they are what a long backlog costs."""
_STATEMENTS = 1_024
"""Statements that a store in memory keeps compiled: its one connection runs all there are."""
_READER_LOCK_WAIT = 10_000
"""ms that anything else waits for a lock."""
_BEGIN = Prepared(text("BEGIN IMMEDIATE"))
_LOCK_WAIT, _LOCK_WAIT_AGAIN = 1_000, 100
"""ms that a commit waits for another program's write lock: the first one, and those after it until
one succeeds. A webhook that arrives behind a waiting commit still has its answer within 2 s."""


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite address; None for a store in memory."""
    path = make_url(url).database
    return Path(path) if path and path != ":memory:" else None


class _Compiler(SQLiteCompiler):
    """Writes `with_hint(table, "INDEXED BY name", "sqlite")` after the table, which SQLAlchemy
    drops."""

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:
        return text


def sqlite_engine(url: str, file: SqliteFile | None = None) -> Engine:
    """WAL with synchronous=FULL: a commit that was answered survives a power cut. secure_delete:
    what is deleted is overwritten, so that nothing of an erased person is left (guarantee 8).

    Opens the file of the address, `file` if given, and creates none.
    """
    path = sqlite_path(url)
    if path:
        engine = create_engine(url, creator=(file or SqliteFile(path)).connect)
    else:
        engine = create_engine(
            url, connect_args={"check_same_thread": False, "cached_statements": 1024}
        )

    engine.dialect.statement_compiler = _Compiler

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
            f"busy_timeout={_READER_LOCK_WAIT}",
            "temp_store=MEMORY",
            f"cache_size=-{_READER_CACHE}",
            "wal_autocheckpoint=4000",
            "secure_delete=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


class _Job:
    """Work to run in the writer thread. `alone`: outside of a transaction. `patient`: nothing waits
    for it."""

    def __init__(self, work: Work[Any], *, alone: bool = False, patient: bool = False) -> None:
        self.work = work
        self.alone = alone
        self.patient = patient
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Any] = self.loop.create_future()


class SqliteDatabase:
    """connector.store.database.Database on a file or in memory."""

    def __init__(self, url: str) -> None:
        path = sqlite_path(url)
        self._file = SqliteFile(path) if path else None
        if self._file:
            self._file.remember()
            # A log that is there before the first connection may be another process's, which
            # SQLite removes when that process closes the store.
            self._file.forget_log()
        self.engine = sqlite_engine(url, self._file)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._of_thread = threading.local()
        self._read_connections: set[Connection] = set()
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="store-read")
        self._thread = threading.Thread(target=self._run, name="store-write", daemon=True)
        self._closed = False
        self._writer: Connection | None = None
        self._lock_wait = _LOCK_WAIT
        self._lock_wait_set = 0
        self._damage: StoreError | None = None
        self._thread.start()

    async def write(self, work: Work[T], *, patient: bool = False) -> T:
        result: T = await self._submit(_Job(work, patient=patient))
        return result

    async def read(self, work: Work[T], *, brief: bool = False) -> T:
        if self._closed:
            raise StoreOutage(Problem.STORE_UNAVAILABLE, "the store is closed")
        if brief:
            with contextlib.suppress(StoreLocked):
                return self._read(work, lock_wait=0)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, work)

    async def empty_log(self) -> bool:
        return bool(await self._submit(_Job(_empty_log, alone=True)))

    def locked_by(self) -> str | None:
        with self.engine.connect() as c:
            connection: Any = c.connection.driver_connection
            try:
                connection.execute("PRAGMA busy_timeout=0")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                if is_busy(error) and self._file:
                    return file_users.locking(self._file.path)
            finally:
                connection.execute(f"PRAGMA busy_timeout={_READER_LOCK_WAIT}")
        return None

    def fault(self) -> StoreError | None:
        if self._damage is None and self._file:
            try:
                self._file.check()
            except StoreError as error:
                return error
        return self._damage

    async def aclose(self) -> None:
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._readers.shutdown()
        for connection in self._read_connections:
            connection.close()
        self.engine.dispose()

    async def _submit(self, job: _Job) -> Any:
        if self._closed:
            raise StoreOutage(Problem.STORE_UNAVAILABLE, "the store is closed")
        self._jobs.put(job)
        return await job.done

    def _read(self, work: Work[T], lock_wait: int = _READER_LOCK_WAIT) -> T:
        try:
            connection = self._reader(lock_wait)
            try:
                return work(connection)
            finally:
                connection.rollback()
        except ENGINE_ERRORS as error:
            self._drop_reader()
            raise self._explained(error) from error

    def _reader(self, lock_wait: int) -> Connection:
        """The connection of this thread: taking one from the pool costs as much as a short read."""
        connection: Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = self.engine.connect()
            connection.exec_driver_sql(f"PRAGMA busy_timeout={lock_wait}")
            self._read_connections.add(connection)
        return connection

    def _drop_reader(self) -> None:
        connection: Connection | None = getattr(self._of_thread, "connection", None)
        if connection is not None:
            self._of_thread.connection = None
            self._read_connections.discard(connection)
            connection.invalidate()
            connection.close()

    # ── the writer thread ────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        ended = False
        while not ended:
            group, job = self._next_group()
            self._commit(group)
            if job is None:
                ended = True
            elif job.alone:
                self._run_alone(job)
        if self._writer is not None:
            self._writer.close()

    def _next_group(self) -> tuple[list[_Job], _Job | None]:
        """What shares the next commit, and the job that ended the group. Only a first job that is
        patient waits for others."""
        group: list[_Job] = []
        job = self._jobs.get()
        wait = _PATIENCE if job and job.patient else 0.0
        while job is not None and not job.alone:
            group.append(job)
            if len(group) == _MAX_GROUP:
                break
            try:
                job = self._jobs.get(timeout=wait)
            except queue.Empty:
                break
            wait = 0.0
        return group, job

    def _commit(self, group: list[_Job]) -> None:
        """Run the group in one transaction. When a piece of work fails, each is run in its own, so
        that it fails alone. When the database itself fails, all have failed."""
        live = [job for job in group if not job.done.cancelled()]
        if not live:
            return
        working = False
        try:
            connection = self._begin()
            working = True
            results = [job.work(connection) for job in live]
            working = False
            connection.commit()
            if self._file:
                self._file.check()
        except Exception as error:
            self._roll_back()
            if working and len(live) > 1:
                for job in live:
                    self._commit([job])
            else:
                failure = self._explained(error)
                failure = failure if working else _outage(failure)
                _finish([(job, None, failure) for job in live])
            return
        _finish([(job, result, None) for job, result in zip(live, results, strict=True)])

    def _run_alone(self, job: _Job) -> None:
        try:
            if self._file:
                self._file.check()
            self._writer = self._writer or self._open_writer()
            result = job.work(self._writer)
        except Exception as error:
            _finish([(job, None, self._explained(error))])
        else:
            _finish([(job, result, None)])
        self._lock_wait_set = 0

    def _begin(self) -> Connection:
        if self._file:
            self._file.check()
        connection = self._writer = self._writer or self._open_writer()
        if self._lock_wait_set != self._lock_wait:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={self._lock_wait}")
            self._lock_wait_set = self._lock_wait
        try:
            if not connection.in_transaction():  # the PRAGMA begins one
                connection.begin()
            _BEGIN.run(connection)
        except ENGINE_ERRORS:
            self._lock_wait = _LOCK_WAIT_AGAIN
            raise
        self._lock_wait = _LOCK_WAIT
        if self._file:
            self._file.remember()
        return connection

    def _open_writer(self) -> Connection:
        connection = self.engine.connect()
        connection.exec_driver_sql(f"PRAGMA cache_size=-{_WRITER_CACHE}")
        self._lock_wait_set = 0
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
            if self._file:
                self._file.forget_log()

    def _explained(self, error: Exception) -> Exception:
        """An engine's error as a StoreError. Damage is remembered: a damaged store takes no more
        webhooks, whichever pages they would touch."""
        if not isinstance(error, ENGINE_ERRORS):
            return error
        failure = to_store_error(error)
        if isinstance(failure, StoreLocked) and self._file:
            return locked(self._file.path)
        if failure.problem is Problem.STORE_DAMAGED and self._file:
            failure = self._damage = damaged(self._file.path, failure.detail)
        return failure


_Ended = tuple[_Job, Any, Exception | None]


def _finish(ended: Sequence[_Ended]) -> None:
    """Give their results to all who wait for these jobs, with one wake-up of the loop."""
    for loop in {job.loop for job, _, _ in ended}:
        with contextlib.suppress(RuntimeError):  # a loop that is closed waits for nothing
            loop.call_soon_threadsafe(_resolve, [e for e in ended if e[0].loop is loop])


def _resolve(ended: Sequence[_Ended]) -> None:
    for job, result, error in ended:
        if job.done.done():
            continue
        if error is None:
            job.done.set_result(result)
        else:
            job.done.set_exception(error)


def _outage(error: Exception) -> Exception:
    """The failure of a transaction as a whole, whatever the work in it."""
    if isinstance(error, StoreOutage) or not isinstance(error, StoreError):
        return error
    return StoreOutage(error.problem, error.detail)


def _empty_log(c: Connection) -> bool:
    c.exec_driver_sql(f"PRAGMA busy_timeout={_LOCK_WAIT}")
    busy, *_ = c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    c.rollback()
    return not busy
