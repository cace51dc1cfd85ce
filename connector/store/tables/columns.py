"""Columns and indexes that the queue tables share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Text,
    event,
    text,
)
from sqlmodel import Field, SQLModel

metadata = SQLModel.metadata
_WHERE = "where"
RowId = BigInteger().with_variant(Integer, "sqlite")


class Row(SQLModel):
    """What every table is declared with. No row is ever made of its class, so that pydantic need
    not prepare for it."""

    model_config = {"defer_build": True}


class Bounded(Row):
    """Tables that grow with what is configured, not with people and time."""


class QueueColumns(Row):
    """What every queue has. `state` is connector.domain.records.State, `priority` 1 for backfills.

    `due` is when the row may be claimed, `claim` the token that holds it, `failing_since` when the
    first of the attempts without success was made.
    """

    lane: int = Field(sa_type=Integer)
    state: int = Field(default=0, sa_type=SmallInteger)
    priority: int = Field(default=0, sa_type=SmallInteger)
    due: int = Field(sa_type=BigInteger)
    attempts: int = Field(default=0, sa_type=Integer)
    failing_since: int | None = Field(default=None, sa_type=BigInteger)
    claim: int | None = Field(default=None, sa_type=BigInteger)
    problem: str | None = Field(default=None, sa_type=Text)
    detail: str = Field(default="", sa_type=Text)


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows of `where`, which both engines read alike."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), info={_WHERE: where})


@event.listens_for(metadata, "before_create")
def _add_conditions(_: MetaData, connection: Connection, **options: Any) -> None:
    """Saying it to an index imports the whole dialect, which a start on SQLite has no use for, nor
    one on PostgreSQL, where migrations create the tables."""
    if connection.dialect.name == "postgresql":
        for index in (index for table in metadata.tables.values() for index in table.indexes):
            if where := index.info.get(_WHERE):
                index.dialect_kwargs["postgresql_where"] = text(where)


def ready_index(table: str, key: str, mode: str | None) -> Index:
    """What a lane could claim, in the order in which it is claimed."""
    columns = ("lane", *([mode] if mode else []), "priority", "due", key)
    return partial_index(f"{table}_ready", *columns, where="state = 0")


WAITING = "state = 0 AND seq > 0"
"""The condition of the index that has the oldest record of a lane first. Every `seq` is positive:
saying so keeps planners from using the index for claims."""
RETRYING = "state = 0 AND failing_since IS NOT NULL"
"""The condition of `retrying_index`, without the table's name."""


def retrying_index(table: str, key: str) -> Index:
    """What is ready to be tried again."""
    return partial_index(f"{table}_retrying", "lane", key, where=RETRYING)


def claimed_index(table: str) -> Index:
    """What a claim holds."""
    return partial_index(f"{table}_claimed", "claim", where="state = 1")


def stuck_index(table: str, key: str) -> Index:
    """What is held or dead, by cause."""
    columns = ("lane", "state", "problem", key)
    return partial_index(f"{table}_stuck", *columns, where="state IN (4, 5)")
