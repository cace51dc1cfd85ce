"""The schema's versions: Alembic on both engines.

A migrated store equals a fresh one (tests/store/test_migrations.py). An SQLite file is copied
beside itself before it is changed.

A revision says which versions work with it: those since revision 0001 work with the schema
`0003_since_0001` (docs/decisions/0032-rolling-upgrade.md). On PostgreSQL a migration that keeps the
versions in use working runs beside them.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from sqlalchemy import Connection, column, func, inspect, select, table
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from connector.domain.errors import Problem, StoreError, StoreInUse, StoreOutage
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

UPGRADE = "`connector store upgrade`"

STATEMENT_LIMIT = 2.0
"""Seconds for a statement of a migration beside processes that use the store. While it waits for a
table, they wait behind it."""

_SILENT_MS = 15_000
"""A process has ended if its last report is older."""

_REVISION = re.compile(r"(\d{4})_since_(\d{4})")
"""A revision after the baseline: its number, and that of the oldest one whose versions work with
it."""

_CANCELLED = "57014"
"""SQLSTATE of a statement that took longer than its limit."""

_VERSION = table("alembic_version", column("version_num"))


def works_with(revision: str | None) -> bool:
    """Whether this version works with a schema of that revision: its own, or a newer one that
    says so."""
    newer = _REVISION.fullmatch(revision or "")
    return revision == HEAD or bool(newer and newer[2] <= HEAD[:4] < newer[1])


def oldest_for(revision: str) -> str:
    """The number of the oldest revision whose versions work with the schema of this one."""
    found = _REVISION.fullmatch(revision)
    return found[2] if found else revision


def alembic_config(connection: Connection | None = None, *, beside_others: bool = False) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["beside_others"] = beside_others
    return config


def scripts() -> ScriptDirectory:
    """The migrations of this version."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(alembic_config())


def prepare(url: str, migrate: Literal["auto", "manual"], *, create: bool = True) -> str | None:
    """Bring a store up to date, unless it is newer and this version works with it; returns the path
    of the copy made of an older SQLite file.

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
    while not works_with(found := revision_of(c)):
        if found is None and not create:
            raise StoreOutage(
                Problem.STORE_UNAVAILABLE,
                "the database has no tables of the connector yet: `connector run` creates them",
            )
        _lock(c)
        if works_with(found := revision_of(c)):
            break  # another process was faster
        if found and (migrate == "manual" or not _is_known(found)):
            raise mismatch(found)
        if found and c.dialect.name == "postgresql":
            _require_no_older_process(c)
            if oldest_for(HEAD) <= found[:4]:
                _upgrade_beside_others(c, found)
                continue
        from alembic import command

        copy = _copy(url, found) if found else None
        command.upgrade(alembic_config(c), "head")
        c.commit()
        return copy
    return None


def _is_known(revision: str) -> bool:
    return revision in {r.revision for r in scripts().walk_revisions()}


def mismatch(revision: str | None) -> StoreError:
    """Why this version does not work with a schema of that revision."""
    if revision is None or _is_known(revision):
        detail = f"this version needs {HEAD}: run {UPGRADE}"
    else:
        detail = (
            f"with which this version ({HEAD}) does not work: a newer version or a development "
            "version before 0.1.0 wrote it; install that version, or start a new store "
            "(docs/upgrade.md)"
        )
    found = f"is at revision {revision}" if revision else "has no tables of the connector"
    return StoreError(Problem.STORE_SCHEMA, f"the store {found}, {detail}")


def _require_no_older_process(c: Connection) -> None:
    """Raise StoreInUse while a process works on the store that the new schema would break."""
    reports = c.exec_driver_sql(
        "SELECT holder, revision FROM process_reports "
        f"WHERE saved_at > EXTRACT(EPOCH FROM clock_timestamp()) * 1000 - {_SILENT_MS}"
    )
    if older := sorted(holder for holder, known in reports if known[:4] < oldest_for(HEAD)):
        raise StoreInUse(
            Problem.STORE_SCHEMA,
            f"revision {HEAD} cannot be used by older versions, and such processes work on the "
            f"store or did so in the last {_SILENT_MS // 1000} s ({', '.join(older)}): stop them; "
            f"`connector run` waits, {UPGRADE} is to be repeated",
        )


def _upgrade_beside_others(c: Connection, found: str) -> None:
    """Upgrade by one revision while other processes use the store, and commit."""
    from alembic import command
    from alembic.util import CommandError

    c.exec_driver_sql(f"SET LOCAL statement_timeout = {round(STATEMENT_LIMIT * 1000)}")
    try:
        command.upgrade(alembic_config(c, beside_others=True), "+1")
        c.commit()
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _CANCELLED:
            raise
        raise StoreOutage(
            Problem.STORE_UNAVAILABLE,
            f"the migration after revision {found} was not done within {STATEMENT_LIMIT:g} s, most "
            "likely because another session has locked a table (pg_stat_activity): `connector run` "
            f"tries again, {UPGRADE} is to be repeated",
        ) from error
    except CommandError:
        # Another process has created the same index and was faster at recording that.
        c.rollback()
        if revision_of(c) == found:
            raise


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
