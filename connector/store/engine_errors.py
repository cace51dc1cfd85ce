"""What an engine's error means."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError

from connector.domain.errors import Problem, StoreError, StoreLocked

ENGINE_ERRORS = (SQLAlchemyError, sqlite3.Error)
"""What statements raise: those that SQLAlchemy runs, and those that SQLite's driver runs."""


_COLLISIONS = frozenset(("23505", "40001", "40P01"))
"""SQLSTATE of unique_violation, serialization_failure and deadlock_detected."""


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise an engine's error as the StoreError that it means."""
    try:
        yield
    except ENGINE_ERRORS as error:
        raise to_store_error(error) from error


def to_store_error(error: Exception) -> StoreError:
    """What an engine's error means, without the statement and its parameters: they hold personal
    data."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    message = str(cause).splitlines()[0][:200] if isinstance(cause, OSError | sqlite3.Error) else ""
    # asyncpg's own error, which SQLAlchemy wraps, says more by its name: LockNotAvailableError.
    named = cause.__cause__ if getattr(cause, "sqlstate", None) and cause.__cause__ else cause
    detail = f"{type(named).__name__} {message}".strip()
    if is_busy(cause):
        return StoreLocked(
            Problem.STORE_UNAVAILABLE, f"another program has locked its file ({detail})"
        )
    return StoreError(_problem(error, cause), detail)


def is_busy(error: BaseException) -> bool:
    """Whether another connection holds the lock of an SQLite file."""
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def is_collision(error: BaseException) -> bool:
    """Whether PostgreSQL ended a transaction, whole and for certain, because another one stored the
    same row or waited for the same rows at the same time. Repeated, it sees what that one did."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) in _COLLISIONS


def _problem(error: Exception, cause: BaseException) -> Problem:
    if isinstance(cause, sqlite3.Error):
        name = getattr(cause, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return Problem.STORE_DAMAGED
    # A broken constraint is none: of two inserts of the same row at once, one is repeated.
    # asyncpg names bad data by SQLSTATE 22, or finds it before it is sent.
    state = str(getattr(cause, "sqlstate", None) or "")
    if (
        isinstance(error, DataError | sqlite3.DataError)
        or state[:2] == "22"
        or isinstance(cause.__cause__, ValueError)
    ):
        return Problem.STORE_REFUSED
    return Problem.STORE_UNAVAILABLE
