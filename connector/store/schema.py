"""The schema's versions: Alembic on both engines.

A migrated store equals a fresh one (tests/store/test_migrations.py). An SQLite file is copied
beside itself before it is changed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from sqlalchemy import Connection, column, func, inspect, select, table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from connector.domain.errors import Problem, StoreError, StoreOutage
from connector.store.database import postgres_engine
from connector.store.engine_errors import to_store_error
from connector.store.sqlite import sqlite_engine, sqlite_path
from connector.store.sqlite_file import SqliteFile, damaged

if TYPE_CHECKING:
    # Imported where a schema is old, because it takes as long as the rest of a short command.
    from alembic.config import Config
    from alembic.script import ScriptDirectory

T = TypeVar("T")

_SCHEMA_LOCK = 5_014_217_083
"""Key of PostgreSQL's advisory lock, which any number that no one else uses is."""

MIGRATIONS = Path(__file__).parent / "migrations"

HEAD = "0001"
"""The newest revision of this version."""

_VERSION = table("alembic_version", column("version_num"))


def alembic_config(connection: Connection | None = None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def scripts() -> ScriptDirectory:
    """The migrations of this version."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(alembic_config())


def prepare(url: str, migrate: Literal["auto", "manual"], *, create: bool = True) -> str | None:
    """Bring a store up to date; returns the path of the copy made of an older SQLite file.

    Blocking. Raises StoreError as `connector.store.sql.open_store` says.
    """
    try:
        return with_connection(url, lambda c: _prepare(c, url, migrate, create), create=create)
    except (SQLAlchemyError, OSError, sqlite3.Error) as error:
        failure = to_store_error(error)
        if failure.problem is Problem.STORE_DAMAGED and (path := sqlite_path(url)):
            raise damaged(path, failure.detail) from error
        raise StoreError(failure.problem, f"cannot open the store: {failure.detail}") from error


def _prepare(c: Connection, url: str, migrate: str, create: bool) -> str | None:
    found = revision_of(c)
    if found == HEAD:
        return None
    if found is None and not create:
        raise StoreOutage(
            Problem.STORE_UNAVAILABLE,
            "the database has no tables of the connector yet: `connector run` creates them",
        )
    _lock(c)
    if (found := revision_of(c)) == HEAD:
        return None  # another process was faster
    if found and found not in {r.revision for r in scripts().walk_revisions()}:
        raise StoreError(
            Problem.STORE_SCHEMA,
            f"the store is at revision {found}, which this version does not know: a newer version "
            "or a development version before 0.1.0 wrote it; install that version, or start a new "
            "store (docs/upgrade.md)",
        )
    if found and migrate == "manual":
        raise StoreError(
            Problem.STORE_SCHEMA,
            f"the store is at revision {found}, this version needs {HEAD}: "
            "run `connector store upgrade`",
        )
    from alembic import command

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
    """None for a database without our tables."""
    if not inspect(c).has_table(_VERSION.name):
        return None
    return c.scalar(select(_VERSION.c.version_num))


def _copy(url: str, revision: str) -> str | None:
    path = make_url(url).database
    if make_url(url).get_backend_name() != "sqlite" or not path:
        return None
    target = f"{path}.before-upgrade-from-{revision}"
    SqliteFile(Path(target)).create()
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    return target


def with_connection(url: str, work: Callable[[Connection], T], *, create: bool = False) -> T:
    """Run `work` on a connection of its own. Without `create`, an SQLite store that does not exist
    is a StoreError. Blocking; raises what the engine raises."""
    if make_url(url).get_backend_name() == "sqlite":
        if path := sqlite_path(url):
            file = SqliteFile(path)
            if create:
                file.create()
            file.restrict()
        engine = sqlite_engine(url)
        try:
            with engine.connect() as connection:
                return work(connection)
        finally:
            engine.dispose()
    return asyncio.run(_on_postgres(url, work))


async def _on_postgres(url: str, work: Callable[[Connection], T]) -> T:
    engine = postgres_engine(url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()
