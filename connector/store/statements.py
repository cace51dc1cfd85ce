"""What many statements need: long lists in parts, and inserts that may meet an existing row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from sqlalchemy import Table

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")
Upsert: TypeAlias = "postgresql.Insert | sqlite.Insert"
"""An insert with `on_conflict_do_nothing`, `on_conflict_do_update` and `excluded`."""

_MAX_PARAMETERS = 10_000


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts that fit into one IN list."""
    for start in range(0, len(values), _MAX_PARAMETERS):
        yield values[start : start + _MAX_PARAMETERS]


def upsert(dialect: str, table: Table) -> Upsert:
    """An insert for the connection's `dialect`: SQLAlchemy has a class for each, and imports both
    dialects with everything that they need, so only the one in use is imported."""
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)
