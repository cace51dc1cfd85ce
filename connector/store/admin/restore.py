"""Puts a backup in the place of a store. Blocking; not beside a running daemon."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, update
from sqlalchemy.exc import SQLAlchemyError

from connector.domain.actions import Step
from connector.domain.errors import ConfigError, Problem, StoreError
from connector.domain.lanes import Millis
from connector.domain.records import State
from connector.store import schema
from connector.store.admin import integrity
from connector.store.engine_errors import to_store_error
from connector.store.sql import file_of
from connector.store.sqlite_file import LOG, SqliteFile
from connector.store.tables import actions

_ALIVE_LOCK = 128
"""The byte of the -shm file that every connection keeps locked (SQLite: UNIX_SHM_DMS)."""


@dataclass(frozen=True, slots=True)
class Restored:
    """`kept`: where the former store is now, None if there was none, and whether it is `damaged`.
    `actions`: how many waiting actions are looked up at the platform before they are sent."""

    size: int
    kept: Path | None
    damaged: bool
    actions: int


def restore(url: str, backup: Path, *, now: Millis) -> Restored:
    """Put a copy of `backup` in the place of an SQLite store; the former files are kept beside it.

    An action that waits in the backup may have been sent since, so it is looked up first, as after
    an ambiguous answer (guarantee 4). Raises ConfigError for PostgreSQL and for a file that cannot
    be read, StoreError where a process has the store open or the backup is damaged or newer than
    this version; then nothing was changed.
    """
    path = file_of(url)
    if path is None:
        raise ConfigError(
            ["store.url: found PostgreSQL, which has its own: pg_restore --clean --dbname=DATABASE"]
        )
    if not backup.is_file() or (path.exists() and backup.samefile(path)):
        allowed = "allowed a file of `connector store backup`"
        raise ConfigError([f"{backup}: found no backup, {allowed}"])
    if _is_open(path):
        raise StoreError(Problem.STORE_HELD, f"a process has {path} open; stop the daemon first")
    copy = path.with_name(f"{path.name}.restoring")
    try:
        count = _copy(backup, copy, now)
        kept = _move_aside(path, now)
        copy.rename(path)
        _fsync(path.parent)
    except sqlite3.Error as error:
        failure = to_store_error(error)
        raise StoreError(failure.problem, f"{backup}: {failure.detail}") from error
    finally:
        for leftover in path.parent.glob(f"{copy.name}*"):
            leftover.unlink()
    return Restored(path.stat().st_size, kept, bool(kept and _damage(kept)), count)


def _is_open(path: Path) -> bool:
    """Whether a process of this machine has a connection to the store."""
    try:
        number = os.open(path.with_name(f"{path.name}-shm"), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _ALIVE_LOCK)
    except OSError:
        return True
    finally:
        os.close(number)
    return False


def _copy(backup: Path, copy: Path, now: Millis) -> int:
    """Make a sound copy, of this version; the number of actions that are looked up."""
    SqliteFile(copy).create()
    # A backup without a log may be on a read-only disk, where locks cannot be taken.
    how = "ro" if backup.with_name(backup.name + LOG).exists() else "ro&immutable=1"
    source = f"file:{quote(str(backup.absolute()))}?mode={how}"
    with closing(sqlite3.connect(source, uri=True)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    url = f"sqlite:///{copy}"
    if damage := _damage(copy):
        raise StoreError(Problem.STORE_DAMAGED, f"{backup} is damaged: {damage}")
    schema.prepare(url, "auto", create=False)
    try:
        return schema.with_connection(url, _look_up_first(now))
    except SQLAlchemyError as error:
        raise to_store_error(error) from error


def _damage(file: Path) -> str | None:
    faults = integrity.check(f"sqlite:///{file}")
    return next((fault for fault in faults if fault.startswith(Problem.STORE_DAMAGED)), None)


def _look_up_first(now: Millis) -> Callable[[Connection], int]:
    waiting = (actions.c.state == State.READY) & (actions.c.step == Step.SEND)
    values = {"step": Step.LOOK_UP, "sent_at": now, "due": 0, "lookups": 0}

    def work(c: Connection) -> int:
        c.exec_driver_sql("BEGIN")
        count = c.execute(update(actions).where(waiting).values(values)).rowcount
        c.commit()
        return count

    return work


def _move_aside(path: Path, now: Millis) -> Path | None:
    stamp = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.replaced-{stamp}")
    found = False
    for suffix in ("", LOG, "-journal"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
            found = True
    # SQLite rebuilds it; that of another file would damage the store.
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    return aside if found else None


def _fsync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
