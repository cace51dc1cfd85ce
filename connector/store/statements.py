"""What many statements need: long lists in parts, and inserts that may meet an existing row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")
Upsert = postgresql.Insert | sqlite.Insert
"""An insert with `on_conflict_do_nothing`, `on_conflict_do_update` and `excluded`."""

_MAX_PARAMETERS = 10_000


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts that fit into one IN list."""
    for start in range(0, len(values), _MAX_PARAMETERS):
        yield values[start : start + _MAX_PARAMETERS]


def upsert(dialect: str, table: Table) -> Upsert:
    """An insert for the connection's `dialect`: SQLAlchemy has a class for each."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
