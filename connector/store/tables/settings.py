"""Tables for settings made at run time, and for the audit log."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Text
from sqlmodel import Field

from connector.store.tables.columns import Bounded, Row, RowId, metadata


class Settings(Bounded, table=True):
    """Settings made at run time. `value` is JSON; of a secret it is null and `sealed` is the
    ciphertext."""

    __tablename__ = "settings"

    connection: str = Field(sa_column=Column(Text, primary_key=True))
    key: str = Field(sa_column=Column(Text, primary_key=True))
    value: str = Field(sa_type=Text)
    sealed: str | None = Field(default=None, sa_type=Text)
    changed_by: str = Field(sa_type=Text)
    changed_at: int = Field(sa_type=BigInteger)


class Audit(Row, table=True):
    """Who did or tried what, and when. `before` and `after` are JSON without secrets; `error` is
    empty where it was done."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("audit_by_connection", "connection", "id"),
        Index("audit_by_time", "at"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    at: int = Field(sa_type=BigInteger)
    by: str = Field(sa_type=Text)
    what: str = Field(sa_type=Text)
    connection: str = Field(default="", sa_type=Text)
    subject: str = Field(default="", sa_type=Text)
    before: str = Field(default="null", sa_type=Text)
    after: str = Field(default="null", sa_type=Text)
    error: str = Field(default="", sa_type=Text)


settings = metadata.tables["settings"]
audit = metadata.tables["audit"]
