"""Stores in memory that begin as copies of an empty one, for tests."""

from __future__ import annotations

import sqlite3
from functools import cache
from typing import Any

from sqlalchemy import Engine

from connector.store import counters
from connector.store.sqlite import sqlite_engine
from connector.store.tables import metadata


class _Template:
    """An empty database, made once in a process. A copy of its pages costs a hundredth of creating
    the tables, and all copies share the dialect, so that each statement is compiled once."""

    def __init__(self) -> None:
        self._engine = sqlite_engine("sqlite://")
        metadata.create_all(self._engine)
        with self._engine.begin() as connection:
            counters.install(connection)
        self.pages = _raw(self._engine)
        self._compiled: dict[Any, Any] = {}

    def copy(self) -> Engine:
        engine = Engine(self._engine.pool.recreate(), self._engine.dialect, self._engine.url)
        engine.update_execution_options(compiled_cache=self._compiled)
        self.pages.backup(_raw(engine))
        return engine


_template = cache(_Template)


def empty_database() -> Engine:
    """A database in memory that has the tables, and one connection."""
    return _template().copy()


def empty_pages() -> sqlite3.Connection:
    """The empty database that all copies are made of, to be read only."""
    return _template().pages


def _raw(engine: Engine) -> sqlite3.Connection:
    """The one connection of an engine in memory."""
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        return raw
