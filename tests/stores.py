"""What makes stores cheap in tests: files are copied, each statement is compiled once for all
engines of a process, and a store is emptied rather than made again. And a lock by another program.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from functools import cache, wraps
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from connector.store import database, schema, sqlite
from connector.store.sqlite import sqlite_path
from connector.store.sqlite_file import SqliteFile
from connector.store.tables import metadata


@contextlib.contextmanager
def write_lock(file: Path) -> Iterator[None]:
    """What another program does that writes to the store's file."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def files_are_copies(folder: Callable[[], Path]) -> Iterator[None]:
    """A new SQLite file is a copy of one that the migrations have made, at a fortieth of the CPU.
    `prepare.__wrapped__` makes one from nothing."""
    prepare = schema.prepare

    @cache
    def template() -> bytes:
        path = folder() / "empty.db"
        prepare(f"sqlite:///{path}", "auto")
        return path.read_bytes()

    @wraps(prepare)
    def copy(url: str, *args: Any, create: bool = True) -> str | None:
        path = sqlite_path(url) if url.startswith("sqlite:") else None
        if create and path and not path.exists():
            with contextlib.suppress(OSError):  # the original says what is wrong
                SqliteFile(path).create()
                path.write_bytes(template())
        return prepare(url, *args, create=create)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "prepare", copy)
        yield


@contextlib.contextmanager
def statements_are_shared() -> Iterator[None]:
    """An engine has the dialect of the first one, and the statements that others have compiled."""
    compiled: dict[Any, Any] = {}
    servers: dict[str, Engine] = {}

    def sharing(pool: Any, url: URL, like: Engine) -> Engine:
        engine = Engine(pool, like.dialect, url)
        engine.update_execution_options(compiled_cache=compiled)
        return engine

    @cache
    def first() -> Engine:
        # Any thread may be the first to open a store, and another one closes this.
        engine = create_engine("sqlite://", connect_args={"check_same_thread": False})
        engine.connect().close()
        return engine

    def on_file(url: str, **options: Any) -> Engine:
        made = create_engine(url, **options)
        return sharing(made.pool, made.url, first())

    def on_server(url: URL, **options: Any) -> AsyncEngine:
        if "statement_cache_size" in options.get("connect_args", {}):
            return create_async_engine(url, **options)  # its dialect has settings of its own
        key = f"{url!r} {options}"
        if key not in servers:
            servers[key] = create_async_engine(url, **options).sync_engine
        like = servers[key]
        return AsyncEngine(sharing(like.pool.recreate(), like.url, like))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "create_engine", on_file)
        patch.setattr(database, "create_async_engine", on_server)
        yield
    first().dispose()


def delete_all(c: Connection) -> None:
    """Delete every row of the store. Counters go last: triggers count what is deleted."""
    tables = sorted(metadata.tables, key=lambda name: name == "counts")
    deletes = [f"DELETE FROM {name};" for name in tables]
    if c.dialect.name == "postgresql":
        c.exec_driver_sql("SET LOCAL session_replication_role = replica")  # runs no trigger
        deletes = [f"DO $$ BEGIN {' '.join(deletes)} END $$"]
    for statement in deletes:
        c.exec_driver_sql(statement)


def truncate_all(c: Connection) -> None:
    """Replace the files of every table of PostgreSQL by empty ones."""
    c.exec_driver_sql(f"TRUNCATE {', '.join(metadata.tables)}")
