"""Tables for encrypted secrets and OAuth authorizations under way."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Text
from sqlmodel import Field

from connector.store.tables.columns import Bounded, Row, metadata


class Secrets(Bounded, table=True):
    """Encrypted values. `info` (JSON) is not secret; `claim` names who is replacing the value,
    `attempts` (JSON) when that was tried last."""

    __tablename__ = "secrets"

    owner: str = Field(sa_column=Column(Text, primary_key=True))
    name: str = Field(sa_column=Column(Text, primary_key=True))
    sealed: str = Field(sa_type=Text)
    info: str = Field(default="{}", sa_type=Text)
    version: int = Field(sa_type=BigInteger)
    claim: str | None = Field(default=None, sa_type=Text)
    attempts: str = Field(default="[]", sa_type=Text)
    updated_at: int = Field(sa_type=BigInteger)


class Authorizations(Row, table=True):
    """OAuth authorizations under way, by the digest of their random value."""

    __tablename__ = "authorizations"
    __table_args__ = (
        Index("authorizations_by_connection", "connection", "created_at"),
        Index("authorizations_by_expiry", "expires_at"),
    )

    digest: str = Field(sa_column=Column(Text, primary_key=True))
    kind: str = Field(sa_type=Text)
    connection: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger)
    browser: str = Field(default="", sa_type=Text)
    started_by: str = Field(default="", sa_type=Text)
    sealed: str = Field(default="", sa_type=Text)
    used_at: int | None = Field(default=None, sa_type=BigInteger)
    outcome: str | None = Field(default=None, sa_type=Text)


secrets = metadata.tables["secrets"]
authorizations = metadata.tables["authorizations"]
