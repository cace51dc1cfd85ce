"""The schema's versions: Alembic on both engines.

A migrated store equals a fresh one (tests/store/test_migrations.py). An SQLite file is copied
beside itself before it is changed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from connector.domain.errors import Problem, StoreError
from connector.store.database import sqlite_engine, to_store_error

T = TypeVar("T")

_SCHEMA_LOCK = 5_014_217_083
"""Key of PostgreSQL's advisory lock, which any number that no one else uses is."""

MIGRATIONS = Path(__file__).parent / "migrations"


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest revision of this version."""
    revision = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert revision is not None
    return revision


def prepare(url: str, migrate: Literal["auto", "manual"]) -> str | None:
    """Bring a store up to date; returns the path of the copy made of an older SQLite file.

    Blocking. Raises StoreError as `connector.store.sql.open_store` says.
    """
    try:
        return with_connection(url, lambda c: _prepare(c, url, migrate))
    except (SQLAlchemyError, OSError, sqlite3.Error) as error:
        failure = to_store_error(error)
        raise StoreError(failure.problem, f"cannot open the store: {failure.detail}") from error


def _prepare(c: Connection, url: str, migrate: str) -> str | None:
    newest = head()
    if revision_of(c) == newest:
        return None
    _lock(c)
    if (found := revision_of(c)) == newest:
        return None  # another process was faster
    script = ScriptDirectory.from_config(alembic_config())
    if found and found not in {r.revision for r in script.walk_revisions()}:
        raise StoreError(
            Problem.STORE_SCHEMA,
            f"the store was written by a newer version (revision {found}); install that version",
        )
    if found and migrate == "manual":
        raise StoreError(
            Problem.STORE_SCHEMA,
            f"the store is at revision {found}, this version needs {newest}: "
            "run `connector store upgrade`",
        )
    copy = _copy(url, found) if found else None
    command.upgrade(alembic_config(c), "head")
    c.commit()
    return copy


def _lock(c: Connection) -> None:
    """Let no other process change the schema before this transaction ends."""
    if c.dialect.name == "sqlite":
        c.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        c.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))


def revision_of(c: Connection) -> str | None:
    return MigrationContext.configure(c).get_current_revision()


def _copy(url: str, revision: str) -> str | None:
    path = make_url(url).database
    if make_url(url).get_backend_name() != "sqlite" or not path:
        return None
    target = f"{path}.before-upgrade-from-{revision}"
    with sqlite3.connect(path) as source, sqlite3.connect(target) as copy:
        source.backup(copy)
    return target


def with_connection(url: str, work: Callable[[Connection], T]) -> T:
    """Run `work` on a connection of its own. Blocking; raises what the engine raises."""
    if make_url(url).get_backend_name() == "sqlite":
        engine = sqlite_engine(url)
        try:
            with engine.connect() as connection:
                return work(connection)
        finally:
            engine.dispose()
    return asyncio.run(_on_postgres(url, work))


async def _on_postgres(url: str, work: Callable[[Connection], T]) -> T:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()
