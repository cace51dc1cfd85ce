"""Tables for operation: lanes, leases, commands, approvals, backfills and small facts."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, Text
from sqlmodel import Field

from connector.store.tables.columns import Bounded, Row, RowId, metadata, partial_index


class Lanes(Bounded, table=True):
    """Routes (connection, destination, kind) and whether they run."""

    __tablename__ = "lanes"
    __table_args__ = (Index("lanes_by_route", "connection", "destination", "kind", unique=True),)

    id: int | None = Field(default=None, sa_column=Column(Integer, primary_key=True))
    connection: str = Field(sa_type=Text)
    destination: str = Field(sa_type=Text)
    kind: str = Field(sa_type=Text)
    mode: str = Field(default="running", sa_type=Text)
    problem: str | None = Field(default=None, sa_type=Text)
    detail: str = Field(default="", sa_type=Text)
    since: int = Field(default=0, sa_type=BigInteger)


class Checkpoints(Bounded, table=True):
    """How far each stream has been read."""

    __tablename__ = "checkpoints"

    connection: str = Field(sa_column=Column(Text, primary_key=True))
    stream: str = Field(sa_column=Column(Text, primary_key=True))
    cursor: str = Field(sa_type=Text)
    saved_at: int = Field(sa_type=BigInteger)


class Leases(Bounded, table=True):
    """Who may work. `token` grows with every change of holder and fences off the previous one."""

    __tablename__ = "leases"

    resource: str = Field(sa_column=Column(Text, primary_key=True))
    holder: str = Field(sa_type=Text)
    token: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger)


RELOADS = "kind = 'reload'"
"""The condition of an index: replicas look for the newest reload every second."""


class Commands(Row, table=True):
    """What people ordered. The process that holds the lease of their connection's account runs
    them, or of the store where they name none. `idempotency_key` is a digest of the caller and the
    key that they gave."""

    __tablename__ = "commands"
    __table_args__ = (
        partial_index("commands_open", "id", where="done_at IS NULL"),
        partial_index("commands_reloads", "id", where=RELOADS),
        Index("commands_by_end", "done_at"),
        Index("commands_by_idempotency_key", "idempotency_key", unique=True),
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    kind: str = Field(sa_type=Text)
    connection: str = Field(sa_type=Text)
    args: str = Field(sa_type=Text)
    created_by: str = Field(sa_type=Text)
    idempotency_key: str | None = Field(default=None, sa_type=Text)
    submitted_at: int = Field(sa_type=BigInteger)
    claimed_at: int | None = Field(default=None, sa_type=BigInteger)
    claimed_by: str | None = Field(default=None, sa_type=Text)
    done_at: int | None = Field(default=None, sa_type=BigInteger)
    ok: int | None = Field(default=None, sa_type=SmallInteger)
    result: str | None = Field(default=None, sa_type=Text)


class QuotaUsages(Row, table=True):
    """Requests allowed per second, so that a restart does not forget the quota it has used."""

    __tablename__ = "quota_usage"
    __table_args__ = (Index("quota_usage_by_second", "second"),)

    account: str = Field(sa_column=Column(Text, primary_key=True))
    endpoint: str = Field(sa_column=Column(Text, primary_key=True))
    second: int = Field(sa_column=Column(BigInteger, primary_key=True))
    count: int = Field(sa_type=Integer)


class Throughput(Row, table=True):
    """Entries of a lane that reached an end in one minute (since 1970), for charts of the last
    hours; kept for a day. A kill loses the seconds since the last report of its process."""

    __tablename__ = "throughput"
    __table_args__ = (Index("throughput_by_minute", "minute"),)

    lane: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    minute: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    entries: int = Field(sa_type=BigInteger)


class Mappings(Bounded, table=True):
    """Texts of the mapping versions that ambiguous entries were rendered with."""

    __tablename__ = "mappings"

    version: str = Field(sa_column=Column(Text, primary_key=True))
    text: str = Field(sa_type=Text)
    first_used: int = Field(sa_type=BigInteger)


class Accounts(Bounded, table=True):
    """The Klaviyo account each connection was first used with."""

    __tablename__ = "accounts"

    connection: str = Field(sa_column=Column(Text, primary_key=True))
    account: str = Field(sa_type=Text)
    pinned_at: int = Field(sa_type=BigInteger)


class Backfills(Row, table=True):
    """One row per run. `cursor`: where the next page starts, `exhausted`: there is no next page.
    `counts` and `notes` (JSON) describe the pages appended so far."""

    __tablename__ = "backfills"
    __table_args__ = (
        Index("backfills_by_connection", "connection", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    connection: str = Field(sa_type=Text)
    source: str = Field(sa_type=Text)
    args: str = Field(sa_type=Text)
    state: str = Field(sa_type=Text)
    cursor: str | None = Field(default=None, sa_type=Text)
    exhausted: int = Field(default=0, sa_type=SmallInteger)
    total: int | None = Field(default=None, sa_type=BigInteger)
    counts: str = Field(default="{}", sa_type=Text)
    notes: str = Field(default="[]", sa_type=Text)
    started_at: int = Field(sa_type=BigInteger)
    ended_at: int | None = Field(default=None, sa_type=BigInteger)
    problem: str | None = Field(default=None, sa_type=Text)
    detail: str = Field(default="", sa_type=Text)


class Approvals(Bounded, table=True):
    """What waits for a person's decision; one row per subject."""

    __tablename__ = "approvals"
    __table_args__ = (
        Index("approvals_by_subject", "connection", "what", "subject", unique=True),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    connection: str = Field(sa_type=Text)
    what: str = Field(sa_type=Text)
    subject: str = Field(sa_type=Text)
    detail: str = Field(sa_type=Text)
    state: str = Field(sa_type=Text)
    requested_at: int = Field(sa_type=BigInteger)
    decided_at: int | None = Field(default=None, sa_type=BigInteger)
    decided_by: str | None = Field(default=None, sa_type=Text)


class SentNotifications(Bounded, table=True):
    """Notifications sent to each target of `[[notify]]` whose cause is not resolved yet."""

    __tablename__ = "notifications"

    target: str = Field(sa_column=Column(Text, primary_key=True))
    key: str = Field(sa_column=Column(Text, primary_key=True))
    text: str = Field(sa_type=Text)
    sent_at: int = Field(sa_type=BigInteger)


class ProcessReports(Bounded, table=True):
    """What each process last reported about itself, as JSON: the state that only it knows. Replaced
    every few seconds; `saved_at` is when it was last alive, `offers` a JSON list of the resources
    whose lease it can use, `revision` the newest of the schema that it knows."""

    __tablename__ = "process_reports"
    __table_args__ = (Index("process_reports_by_time", "saved_at", "holder"),)

    holder: str = Field(sa_column=Column(Text, primary_key=True))
    saved_at: int = Field(sa_type=BigInteger)
    offers: str = Field(sa_type=Text)
    document: str = Field(sa_type=Text)
    revision: str = Field(sa_type=Text)


lanes = metadata.tables["lanes"]
checkpoints = metadata.tables["checkpoints"]
leases = metadata.tables["leases"]
commands = metadata.tables["commands"]
quota_usage = metadata.tables["quota_usage"]
throughput = metadata.tables["throughput"]
mappings = metadata.tables["mappings"]
accounts = metadata.tables["accounts"]
backfills = metadata.tables["backfills"]
approvals = metadata.tables["approvals"]
notifications = metadata.tables["notifications"]
process_reports = metadata.tables["process_reports"]
