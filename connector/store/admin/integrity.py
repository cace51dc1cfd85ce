"""Integrity check, backup and row counts of a store. Blocking; safe beside a running daemon."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, func, or_, select, text
from sqlalchemy.exc import SQLAlchemyError

from connector.domain.errors import ConfigError, Problem, StoreError
from connector.domain.records import State
from connector.store import counters, schema
from connector.store.engine_errors import to_store_error
from connector.store.sql import file_of
from connector.store.sqlite_file import SqliteFile, missing
from connector.store.tables import (
    actions,
    lanes,
    memberships,
    metadata,
    outbox,
    people,
    profiles,
    reads,
)

_MAX_LINES = 20

# ── check ────────────────────────────────────────────────────────────────────────────────


def check(url: str) -> list[str]:
    """What is wrong with a store, one line each; empty when all is well."""
    try:
        return schema.with_connection(url, _check)
    except StoreError as error:
        return [f"{error.problem}: {error.detail}"]
    except (SQLAlchemyError, OSError, sqlite3.Error) as error:
        result = to_store_error(error)
        return [f"{result.problem}: {result.detail}"]


def undurable_settings(url: str) -> list[str]:
    """Settings of a PostgreSQL with which a crash loses commits that it has answered (guarantee 1).
    Empty where it does not answer: `check` says so."""
    if file_of(url):
        return []
    try:
        return schema.with_connection(url, _undurable)
    except (StoreError, SQLAlchemyError, OSError):
        return []


def _undurable(c: Connection) -> list[str]:
    found = c.execute(
        text(
            "SELECT name FROM pg_settings WHERE setting = 'off'"
            " AND name IN ('fsync', 'synchronous_commit', 'full_page_writes') ORDER BY name"
        )
    )
    return list(found.scalars())


def _check(c: Connection) -> list[str]:
    if c.dialect.name == "sqlite":
        result = [str(row[0]) for row in c.exec_driver_sql(f"PRAGMA integrity_check({_MAX_LINES})")]
        if result != ["ok"]:
            # Counts taken from damaged pages would mean nothing.
            return [f"{Problem.STORE_DAMAGED}: {line}" for line in result]
    current = schema.revision_of(c)
    if not schema.works_with(current):
        return [f"{Problem.STORE_SCHEMA}: {schema.mismatch(current).detail}"]
    wrong_rows = [
        f"{Problem.STORE_DAMAGED}: {table.name}: {count} rows {what}"
        for table, what, wrong in _invariants()
        if (count := c.execute(select(func.count()).select_from(table).where(wrong)).scalar_one())
    ]
    return wrong_rows + [
        f"{Problem.STORE_DAMAGED}: counter {name} of {owner}, {key}: {stored}, counted {real}"
        for name, owner, key, stored, real in counters.miscounted(c)
    ]


def _invariants() -> list[tuple[Table, str, ColumnElement[Any]]]:
    """(table, description, condition) of rows that must not exist, however a daemon was killed."""
    found: list[tuple[Table, str, ColumnElement[Any]]] = []
    for table in (outbox, reads, profiles, memberships, actions):
        claimed = table.c.state == State.CLAIMED
        held_by: ColumnElement[bool] = table.c.claim.is_not(None)
        if "receipt" in table.c:
            held_by = or_(held_by, table.c.receipt.is_not(None))
        found += [
            (table, "in a state that does not exist", table.c.state.not_in(list(State))),
            (table, "claimed without an owner", claimed & ~held_by),
            (table, "not claimed but with a claim owner", ~claimed & table.c.claim.is_not(None)),
            (table, "of a lane that does not exist", _orphaned(table.c.lane, lanes.c.id)),
        ]
        if "person" in table.c:
            orphans = _orphaned(table.c.person, people.c.id)
            if "merged_into" in table.c:
                into = table.c.merged_into
                orphans = or_(orphans & into.is_(None), _orphaned(into, people.c.id))
            found.append((table, "of a person who does not exist", orphans))
    return found


def _orphaned(column: Column[Any], key: Column[Any]) -> ColumnElement[Any]:
    return column.is_not(None) & column.not_in(select(key))


# ── backup ───────────────────────────────────────────────────────────────────────────────────────


def backup(url: str, target: Path) -> int:
    """Write one consistent copy of an SQLite store while it is in use; its size in bytes.

    Only the owner may read it. An existing file is not overwritten, and the copy is deleted where
    it cannot be read back. Raises ConfigError for PostgreSQL and for a target that exists, and
    StoreError.
    """
    path = file_of(url)
    if path is None:
        raise ConfigError(
            [
                "store.url: found PostgreSQL, which has its own: "
                f"pg_dump --format=custom --file={target} DATABASE"
            ]
        )
    if not path.exists():
        raise missing(path)
    _reserve(target)
    try:
        # VACUUM INTO writes a new file, without the remains of deleted rows.
        with closing(SqliteFile(path).connect()) as source:
            source.execute("VACUUM INTO ?", (str(target),))
        with closing(sqlite3.connect(target)) as copy:
            result = str(copy.execute("PRAGMA integrity_check(1)").fetchone()[0])
        if result != "ok":
            raise StoreError(Problem.STORE_DAMAGED, f"the copy cannot be trusted: {result}")
        _fsync(target)
        return target.stat().st_size
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            raise to_store_error(error) from error
        raise


def _reserve(target: Path) -> None:
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise ConfigError([f"{target}: found a file, allowed a name that is free"]) from None
    except OSError as error:
        raise ConfigError([f"{target}: cannot be written: {error.strerror}"]) from None


def _fsync(target: Path) -> None:
    for path, how in ((target, os.O_RDWR), (target.parent, os.O_RDONLY)):
        number = os.open(path, how)
        try:
            os.fsync(number)
        finally:
            os.close(number)


# ── counts ────────────────────────────────────────────────────────────────────────────────


def counts(url: str) -> dict[str, int]:
    """Rows of each table."""

    def work(c: Connection) -> dict[str, int]:
        return {
            name: int(c.execute(select(func.count()).select_from(table)).scalar_one())
            for name, table in sorted(metadata.tables.items())
        }

    return schema.with_connection(url, work)
