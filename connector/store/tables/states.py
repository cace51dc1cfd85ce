"""Conditions on a queue's `state`, in the words of its partial indexes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Table, and_, literal_column
from sqlalchemy.sql.selectable import NamedFromClause

from connector.domain.records import State
from connector.store.tables.columns import RETRYING, WAITING
from connector.store.tables.queues import outbox

STUCK = (State.HELD, State.DEAD)
TableOrAlias = Table | NamedFromClause


def is_stuck(table: TableOrAlias) -> ColumnElement[Any]:
    """Held or dead."""
    return literal_column(f"{table.name}.state IN (4, 5)")


def is_waiting_record() -> ColumnElement[Any]:
    """A record that is ready, by the index that has the oldest first."""
    return literal_column(f"outbox.{WAITING}")


def is_retrying(table: TableOrAlias) -> ColumnElement[Any]:
    """Ready to be tried again."""
    return literal_column(f"{table.name}.{RETRYING}")


def in_state(state: State, table: TableOrAlias = outbox) -> ColumnElement[Any]:
    """`state` as a literal: SQLite uses a partial index only where it reads the index's words, and
    compiles a statement at each execution where it compared a bound value with them.

    Without a type, because SQLAlchemy writes a Boolean as `state = 0 = 1` for SQLite, which no
    partial index matches (tests/store/test_sqlite.py checks the query plans).
    """
    condition: ColumnElement[Any] = literal_column(f"{table.name}.state = {int(state)}")
    if state in STUCK:
        return and_(is_stuck(table), condition)
    return condition
