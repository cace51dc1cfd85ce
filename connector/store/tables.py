"""The tables. Instants are ms since 1970 UTC in 64-bit columns, on both engines alike.

`outbox` is log, ledger and timeline at once: a record keeps its row from receipt until retention
ends, so one insert and two updates are all that a record costs (docs/decisions/0002-store.md).
Hot paths use these tables through Core statements, never through the ORM.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    and_,
    literal_column,
    text,
)
from sqlalchemy.sql.selectable import NamedFromClause
from sqlmodel import Field, SQLModel

from connector.domain.records import State

_RowId = BigInteger().with_variant(Integer, "sqlite")


class People(SQLModel, table=True):
    """Whom a connection has seen, by the platform's id or, before it is known, by address."""

    __tablename__ = "people"
    __table_args__ = (
        Index("people_by_platform_id", "connection", "platform_id", unique=True),
        Index("people_by_email", "connection", "email"),
    )

    id: int | None = Field(default=None, sa_column=Column(_RowId, primary_key=True))
    connection: str = Field(sa_type=Text)
    platform_id: str | None = Field(default=None, sa_type=Text)
    email: str | None = Field(default=None, sa_type=Text)
    seen_at: int = Field(sa_type=BigInteger)


class Lanes(SQLModel, table=True):
    """Roads out and their state."""

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


class Outbox(SQLModel, table=True):
    """Records. `state` is model.State; `digest` is what a redelivery has in common."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("outbox_by_digest", "digest", unique=True),
        Index(
            "outbox_ready",
            "lane",
            "solo",
            "priority",
            "due",
            "seq",
            sqlite_where=text("state = 0"),
            postgresql_where=text("state = 0"),
        ),
        Index(
            "outbox_claimed",
            "claim",
            sqlite_where=text("state = 1"),
            postgresql_where=text("state = 1"),
        ),
        Index(
            "outbox_stuck",
            "lane",
            "state",
            "problem",
            "seq",
            sqlite_where=text("state IN (4, 5)"),
            postgresql_where=text("state IN (4, 5)"),
        ),
        Index("outbox_by_person", "person", "seq"),
    )

    seq: int | None = Field(default=None, sa_column=Column(_RowId, primary_key=True))
    lane: int = Field(sa_type=Integer)
    digest: bytes = Field(sa_type=LargeBinary)
    unique_id: str = Field(sa_type=Text)
    name: str = Field(sa_type=Text)
    occurred_at: int = Field(sa_type=BigInteger)
    received_at: int = Field(sa_type=BigInteger)
    via: str = Field(sa_type=Text)
    priority: int = Field(default=0, sa_type=SmallInteger)
    person: int | None = Field(default=None, sa_type=_RowId)
    email: str | None = Field(default=None, sa_type=Text)
    data: bytes = Field(sa_type=LargeBinary)
    state: int = Field(default=0, sa_type=SmallInteger)
    solo: int = Field(default=0, sa_type=SmallInteger)
    due: int = Field(sa_type=BigInteger)
    attempts: int = Field(default=0, sa_type=Integer)
    failing_since: int | None = Field(default=None, sa_type=BigInteger)
    claim: int | None = Field(default=None, sa_type=BigInteger)
    mapping: str | None = Field(default=None, sa_type=Text)
    problem: str | None = Field(default=None, sa_type=Text)
    detail: str = Field(default="", sa_type=Text)
    settled_at: int | None = Field(default=None, sa_type=BigInteger)
    request: str | None = Field(default=None, sa_type=Text)


class Requests(SQLModel, table=True):
    """Requests that left: the other half of a person's timeline."""

    __tablename__ = "requests"
    __table_args__ = (Index("requests_by_time", "sent_at"),)

    id: str = Field(sa_column=Column(Text, primary_key=True))
    lane: int = Field(sa_type=Integer)
    endpoint: str = Field(sa_type=Text)
    sent_at: int = Field(sa_type=BigInteger)
    status: int | None = Field(default=None, sa_type=Integer)
    millis: int = Field(sa_type=Integer)
    problem: str | None = Field(default=None, sa_type=Text)


class Checkpoints(SQLModel, table=True):
    """How far each stream has been read."""

    __tablename__ = "checkpoints"

    connection: str = Field(sa_column=Column(Text, primary_key=True))
    stream: str = Field(sa_column=Column(Text, primary_key=True))
    cursor: str = Field(sa_type=Text)
    saved_at: int = Field(sa_type=BigInteger)


class Leases(SQLModel, table=True):
    """Who may work. `token` grows with every change of hands and fences the one before."""

    __tablename__ = "leases"

    resource: str = Field(sa_column=Column(Text, primary_key=True))
    holder: str = Field(sa_type=Text)
    token: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger)


class Commands(SQLModel, table=True):
    """What people asked for; the holder of the store carries it out."""

    __tablename__ = "commands"
    __table_args__ = (
        Index(
            "commands_open",
            "id",
            sqlite_where=text("claimed_at IS NULL"),
            postgresql_where=text("claimed_at IS NULL"),
        ),
    )

    id: int | None = Field(default=None, sa_column=Column(_RowId, primary_key=True))
    kind: str = Field(sa_type=Text)
    args: str = Field(sa_type=Text)
    created_by: str = Field(sa_type=Text)
    submitted_at: int = Field(sa_type=BigInteger)
    claimed_at: int | None = Field(default=None, sa_type=BigInteger)
    done_at: int | None = Field(default=None, sa_type=BigInteger)
    ok: int | None = Field(default=None, sa_type=SmallInteger)
    result: str | None = Field(default=None, sa_type=Text)


class QuotaUsages(SQLModel, table=True):
    """Requests allowed per second, so that a restart does not forget the quota it has used."""

    __tablename__ = "quota_usage"
    __table_args__ = (Index("quota_usage_by_second", "second"),)

    account: str = Field(sa_column=Column(Text, primary_key=True))
    endpoint: str = Field(sa_column=Column(Text, primary_key=True))
    second: int = Field(sa_column=Column(BigInteger, primary_key=True))
    count: int = Field(sa_type=Integer)


class Mappings(SQLModel, table=True):
    """Texts of mapping versions that entries in doubt were rendered with."""

    __tablename__ = "mappings"

    version: str = Field(sa_column=Column(Text, primary_key=True))
    text: str = Field(sa_type=Text)
    first_used: int = Field(sa_type=BigInteger)


class Accounts(SQLModel, table=True):
    """The Klaviyo account each connection was first used with."""

    __tablename__ = "accounts"

    connection: str = Field(sa_column=Column(Text, primary_key=True))
    account: str = Field(sa_type=Text)
    pinned_at: int = Field(sa_type=BigInteger)


class Reads(SQLModel, table=True):
    """People to read again at their platform.

    `requested_at`: when the newest event that asks for the read was received. `sent_at`: when the
    last read was sent; a read is due while requested_at > sent_at. `refetch`: the next read also
    fetches what is cached. `backfill`: the last backfill that asked for the person.
    """

    __tablename__ = "reads"
    __table_args__ = (
        Index(
            "reads_ready",
            "lane",
            "solo",
            "priority",
            "due",
            "person",
            sqlite_where=text("state = 0"),
            postgresql_where=text("state = 0"),
        ),
        Index(
            "reads_stuck",
            "lane",
            "state",
            sqlite_where=text("state IN (4, 5)"),
            postgresql_where=text("state IN (4, 5)"),
        ),
        Index(
            "reads_claimed",
            "claim",
            sqlite_where=text("state = 1"),
            postgresql_where=text("state = 1"),
        ),
        Index(
            "reads_of_backfill",
            "backfill",
            sqlite_where=text("backfill IS NOT NULL"),
            postgresql_where=text("backfill IS NOT NULL"),
        ),
    )

    person: int = Field(sa_column=Column(_RowId, primary_key=True, autoincrement=False))
    lane: int = Field(sa_type=Integer)
    state: int = Field(sa_type=SmallInteger)
    solo: int = Field(default=0, sa_type=SmallInteger)
    priority: int = Field(default=0, sa_type=SmallInteger)
    due: int = Field(sa_type=BigInteger)
    requested_at: int = Field(sa_type=BigInteger)
    sent_at: int = Field(default=0, sa_type=BigInteger)
    attempts: int = Field(default=0, sa_type=Integer)
    failing_since: int | None = Field(default=None, sa_type=BigInteger)
    claim: int | None = Field(default=None, sa_type=BigInteger)
    problem: str | None = Field(default=None, sa_type=Text)
    detail: str = Field(default="", sa_type=Text)
    view: bytes | None = Field(default=None, sa_type=LargeBinary)
    view_at: int | None = Field(default=None, sa_type=BigInteger)
    gone_at: int | None = Field(default=None, sa_type=BigInteger)
    refetch: int = Field(default=0, sa_type=SmallInteger)
    backfill: int | None = Field(default=None, sa_type=_RowId)


class Profiles(SQLModel, table=True):
    """Profile state at Klaviyo (connector.domain.profile_state.Profile) and its next write.

    `address` is a digest of the account and the address: one write for it at a time. `receipt`
    is the import job that holds the write in flight, `position` the person's place in it.
    """

    __tablename__ = "profiles"
    __table_args__ = (
        Index(
            "profiles_ready",
            "lane",
            "solo",
            "priority",
            "due",
            "person",
            sqlite_where=text("state = 0"),
            postgresql_where=text("state = 0"),
        ),
        Index(
            "profiles_claimed",
            "claim",
            sqlite_where=text("state = 1"),
            postgresql_where=text("state = 1"),
        ),
        Index(
            "profiles_stuck",
            "lane",
            "state",
            "problem",
            "person",
            sqlite_where=text("state IN (4, 5)"),
            postgresql_where=text("state IN (4, 5)"),
        ),
        Index(
            "profiles_skipped",
            "lane",
            "person",
            sqlite_where=text("state = 3"),
            postgresql_where=text("state = 3"),
        ),
        Index("profiles_by_address", "address"),
    )

    person: int = Field(sa_column=Column(_RowId, primary_key=True, autoincrement=False))
    lane: int = Field(sa_type=Integer)
    address: bytes | None = Field(default=None, sa_type=LargeBinary)
    state: int = Field(sa_type=SmallInteger)
    solo: int = Field(default=0, sa_type=SmallInteger)
    priority: int = Field(default=0, sa_type=SmallInteger)
    due: int = Field(sa_type=BigInteger)
    since: int = Field(default=0, sa_type=BigInteger)
    attempts: int = Field(default=0, sa_type=Integer)
    failing_since: int | None = Field(default=None, sa_type=BigInteger)
    claim: int | None = Field(default=None, sa_type=BigInteger)
    receipt: str | None = Field(default=None, sa_type=Text)
    position: int | None = Field(default=None, sa_type=Integer)
    sent: bytes | None = Field(default=None, sa_type=LargeBinary)
    problem: str | None = Field(default=None, sa_type=Text)
    detail: str = Field(default="", sa_type=Text)
    request: str | None = Field(default=None, sa_type=Text)
    settled_at: int | None = Field(default=None, sa_type=BigInteger)
    mapping: str | None = Field(default=None, sa_type=Text)
    identity: str = Field(sa_type=Text)
    wanted: str = Field(sa_type=Text)
    confirmed: str = Field(sa_type=Text)
    address_cleanups: str | None = Field(default=None, sa_type=Text)
    pending_move: str | None = Field(default=None, sa_type=Text)
    profile_id: str | None = Field(default=None, sa_type=Text)


class Journal(SQLModel, table=True):
    """What happened to people beside their events: reads and writes, for their timelines."""

    __tablename__ = "journal"
    __table_args__ = (
        Index("journal_by_person", "person", "id"),
        Index("journal_by_time", "at"),
    )

    id: int | None = Field(default=None, sa_column=Column(_RowId, primary_key=True))
    person: int = Field(sa_type=_RowId)
    at: int = Field(sa_type=BigInteger)
    kind: str = Field(sa_type=Text)
    outcome: str = Field(sa_type=Text)
    request: str | None = Field(default=None, sa_type=Text)
    data: bytes | None = Field(default=None, sa_type=LargeBinary)


class Backfills(SQLModel, table=True):
    """One row per run: `cursor` is behind the last page whose people were asked for, `exhausted`
    says that there is no page after it. `counts` and `notes` are what the feeding found."""

    __tablename__ = "backfills"
    __table_args__ = (
        Index("backfills_by_connection", "connection", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(_RowId, primary_key=True))
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


class Approvals(SQLModel, table=True):
    """Questions that a person answers; one open question per subject."""

    __tablename__ = "approvals"
    __table_args__ = (
        Index("approvals_by_subject", "connection", "what", "subject", unique=True),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(_RowId, primary_key=True))
    connection: str = Field(sa_type=Text)
    what: str = Field(sa_type=Text)
    subject: str = Field(sa_type=Text)
    detail: str = Field(sa_type=Text)
    state: str = Field(sa_type=Text)
    requested_at: int = Field(sa_type=BigInteger)
    decided_at: int | None = Field(default=None, sa_type=BigInteger)
    decided_by: str | None = Field(default=None, sa_type=Text)


class Groups(SQLModel, table=True):
    """Sources (audience, segment), which are scanned, and targets (list, tag), which are kept.

    A source names its `target` (0 for a target) and is `active` while it is configured. A target
    has its `lane`, `remove_foreign` (whether members added by others are removed), and receives
    nothing before `writes_enabled`.

    `scan` numbers the scan that runs (`scan_started_at` is set) or ran last, `completed_scan` the
    last complete one, `applied_scan` the last one whose leaves were applied. `name` is as
    configured, `remote_id` and `title` are the remote side's.
    """

    __tablename__ = "groups"
    __table_args__ = (
        Index("groups_by_name", "connection", "kind", "name", "target", unique=True),
        Index("groups_by_target", "target"),
    )

    id: int | None = Field(default=None, sa_column=Column(Integer, primary_key=True))
    connection: str = Field(sa_type=Text)
    kind: str = Field(sa_type=Text)
    name: str = Field(sa_type=Text)
    target: int = Field(default=0, sa_type=Integer)
    active: int = Field(default=1, sa_type=SmallInteger)
    remote_id: str | None = Field(default=None, sa_type=Text)
    title: str = Field(default="", sa_type=Text)
    lane: int = Field(sa_type=Integer)
    account: str = Field(sa_type=Text)
    remove_foreign: int = Field(default=0, sa_type=SmallInteger)
    writes_enabled: int = Field(default=0, sa_type=SmallInteger)
    scan: int = Field(default=0, sa_type=BigInteger)
    cursor: str | None = Field(default=None, sa_type=Text)
    scan_started_at: int | None = Field(default=None, sa_type=BigInteger)
    saved_at: int | None = Field(default=None, sa_type=BigInteger)
    completed_scan: int = Field(default=0, sa_type=BigInteger)
    completed_at: int | None = Field(default=None, sa_type=BigInteger)
    scan_ms: int = Field(default=0, sa_type=BigInteger)
    applied_scan: int = Field(default=0, sa_type=BigInteger)
    members: int = Field(default=0, sa_type=BigInteger)
    without_address: int = Field(default=0, sa_type=BigInteger)
    problem: str | None = Field(default=None, sa_type=Text)
    detail: str = Field(default="", sa_type=Text)


class SourceMembers(SQLModel, table=True):
    """Who is in a source, as far as we have heard: `scan` is the last one that saw him, `at` when
    the newest word about him was asked for or received, `gone` that it said he left.
    `join_pending`: he joined, and what is done for those who join is not ordered yet."""

    __tablename__ = "source_members"
    __table_args__ = (
        Index(
            "source_members_join_pending",
            "source",
            "email",
            sqlite_where=text("join_pending = 1"),
            postgresql_where=text("join_pending = 1"),
        ),
        {"sqlite_with_rowid": False},
    )

    source: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    email: str = Field(sa_column=Column(Text, primary_key=True))
    scan: int = Field(sa_type=BigInteger)
    at: int = Field(sa_type=BigInteger)
    gone: int = Field(default=0, sa_type=SmallInteger)
    join_pending: int = Field(default=0, sa_type=SmallInteger)
    joined_at: int | None = Field(default=None, sa_type=BigInteger)
    profile_id: str | None = Field(default=None, sa_type=Text)
    platform_id: str | None = Field(default=None, sa_type=Text)


class DeferredMemberships(SQLModel, table=True):
    """Joins and leaves that a platform told of people whose address is not known yet."""

    __tablename__ = "deferred_memberships"
    __table_args__ = (
        Index("deferred_memberships_by_person", "person"),
        Index("deferred_memberships_by_time", "at"),
    )

    id: int | None = Field(default=None, sa_column=Column(_RowId, primary_key=True))
    connection: str = Field(sa_type=Text)
    person: int = Field(sa_type=_RowId)
    platform_id: str | None = Field(default=None, sa_type=Text)
    audience: str = Field(sa_type=Text)
    joined: int = Field(sa_type=SmallInteger)
    at: int = Field(sa_type=BigInteger)


class Memberships(SQLModel, table=True):
    """People as members of a target. `wanted`, `confirmed` (NULL: unknown) and `sent` are 1 for in
    and 0 for out. `added_by_us`: the connector may have added the member.

    A leave is the lane's `solo` entry. `address` is compared with profiles.address.
    `last_seen_scan`: the last read-back that listed the member. `unconfirmed`: the remote side
    accepted the change without reporting its result. `lost_jobs`: how many import jobs that held
    the change were lost.
    """

    __tablename__ = "memberships"
    __table_args__ = (
        Index("memberships_by_email", "target", "email", unique=True),
        Index(
            "memberships_ready",
            "lane",
            "solo",
            "priority",
            "due",
            "id",
            sqlite_where=text("state = 0"),
            postgresql_where=text("state = 0"),
        ),
        Index(
            "memberships_in_flight",
            "lane",
            "receipt",
            "id",
            sqlite_where=text("state = 1"),
            postgresql_where=text("state = 1"),
        ),
        Index(
            "memberships_by_address",
            "address",
            sqlite_where=text("state = 1"),
            postgresql_where=text("state = 1"),
        ),
        Index(
            "memberships_stuck",
            "lane",
            "state",
            "problem",
            "id",
            sqlite_where=text("state IN (4, 5)"),
            postgresql_where=text("state IN (4, 5)"),
        ),
    )

    id: int | None = Field(default=None, sa_column=Column(_RowId, primary_key=True))
    lane: int = Field(sa_type=Integer)
    target: int = Field(sa_type=Integer)
    email: str = Field(sa_type=Text)
    address: bytes = Field(sa_type=LargeBinary)
    wanted: int = Field(sa_type=SmallInteger)
    confirmed: int | None = Field(default=None, sa_type=SmallInteger)
    sent: int | None = Field(default=None, sa_type=SmallInteger)
    added_by_us: int = Field(default=0, sa_type=SmallInteger)
    unconfirmed: int = Field(default=0, sa_type=SmallInteger)
    last_seen_scan: int = Field(default=0, sa_type=BigInteger)
    lost_jobs: int = Field(default=0, sa_type=SmallInteger)
    state: int = Field(sa_type=SmallInteger)
    solo: int = Field(default=0, sa_type=SmallInteger)
    priority: int = Field(default=0, sa_type=SmallInteger)
    due: int = Field(sa_type=BigInteger)
    since: int = Field(sa_type=BigInteger)
    attempts: int = Field(default=0, sa_type=Integer)
    failing_since: int | None = Field(default=None, sa_type=BigInteger)
    claim: int | None = Field(default=None, sa_type=BigInteger)
    receipt: str | None = Field(default=None, sa_type=Text)
    position: int | None = Field(default=None, sa_type=Integer)
    problem: str | None = Field(default=None, sa_type=Text)
    detail: str = Field(default="", sa_type=Text)
    request: str | None = Field(default=None, sa_type=Text)
    settled_at: int = Field(default=0, sa_type=BigInteger)
    profile_id: str | None = Field(default=None, sa_type=Text)
    platform_id: str | None = Field(default=None, sa_type=Text)


class SentNotifications(SQLModel, table=True):
    """What each target of `[[notify]]` was told and is not over yet."""

    __tablename__ = "notifications"

    target: str = Field(sa_column=Column(Text, primary_key=True))
    key: str = Field(sa_column=Column(Text, primary_key=True))
    text: str = Field(sa_type=Text)
    sent_at: int = Field(sa_type=BigInteger)


class Actions(SQLModel, table=True):
    """Requested adjustments and pushes: ledger and state in one row.

    `digest` is the identity (connection, route, person, key), `content` a digest of the rest.
    `person_key` identifies the person for order and caps. `solo` 1: sent, outcome unknown;
    `lookups` counts the look-ups since, `resent` is 1 after a second send. `sent_at` is written
    before the request leaves.
    """

    __tablename__ = "actions"
    __table_args__ = (
        Index("actions_by_digest", "digest", unique=True),
        Index(
            "actions_ready",
            "lane",
            "solo",
            "priority",
            "due",
            "seq",
            sqlite_where=text("state = 0"),
            postgresql_where=text("state = 0"),
        ),
        Index(
            "actions_unsent",
            "person_key",
            "seq",
            sqlite_where=text("state IN (0, 1) AND solo = 0"),
            postgresql_where=text("state IN (0, 1) AND solo = 0"),
        ),
        Index(
            "actions_claimed",
            "claim",
            sqlite_where=text("state = 1"),
            postgresql_where=text("state = 1"),
        ),
        Index(
            "actions_stuck",
            "lane",
            "state",
            "problem",
            "seq",
            sqlite_where=text("state IN (4, 5)"),
            postgresql_where=text("state IN (4, 5)"),
        ),
        Index("actions_by_person_key", "person_key", "received_at"),
        Index("actions_by_time", "lane", "received_at"),
        {"sqlite_autoincrement": True},
    )

    seq: int | None = Field(default=None, sa_column=Column(_RowId, primary_key=True))
    lane: int = Field(sa_type=Integer)
    digest: bytes = Field(sa_type=LargeBinary)
    content: bytes = Field(sa_type=LargeBinary)
    origin: str = Field(sa_type=Text)
    route: str = Field(sa_type=Text)
    name: str = Field(sa_type=Text)
    ref: str = Field(sa_type=Text)
    received_at: int = Field(sa_type=BigInteger)
    person_key: bytes = Field(sa_type=LargeBinary)
    person: int | None = Field(default=None, sa_type=_RowId)
    email: str | None = Field(default=None, sa_type=Text)
    customer: str | None = Field(default=None, sa_type=Text)
    amount: int = Field(sa_type=BigInteger)
    data: bytes = Field(sa_type=LargeBinary)
    state: int = Field(default=0, sa_type=SmallInteger)
    solo: int = Field(default=0, sa_type=SmallInteger)
    priority: int = Field(default=0, sa_type=SmallInteger)
    due: int = Field(sa_type=BigInteger)
    attempts: int = Field(default=0, sa_type=Integer)
    failing_since: int | None = Field(default=None, sa_type=BigInteger)
    claim: int | None = Field(default=None, sa_type=BigInteger)
    sent_at: int | None = Field(default=None, sa_type=BigInteger)
    lookups: int = Field(default=0, sa_type=SmallInteger)
    resent: int = Field(default=0, sa_type=SmallInteger)
    problem: str | None = Field(default=None, sa_type=Text)
    detail: str = Field(default="", sa_type=Text)
    settled_at: int | None = Field(default=None, sa_type=BigInteger)
    request: str | None = Field(default=None, sa_type=Text)
    platform_ref: str | None = Field(default=None, sa_type=Text)
    evidence: str | None = Field(default=None, sa_type=Text)
    decided_by: str | None = Field(default=None, sa_type=Text)
    decided_at: int | None = Field(default=None, sa_type=BigInteger)


class Salts(SQLModel, table=True):
    """What a connection's tombstones are salted with; a row once it has forgotten somebody."""

    __tablename__ = "salts"

    connection: str = Field(sa_column=Column(Text, primary_key=True))
    salt: bytes = Field(sa_type=LargeBinary)


class Tombstones(SQLModel, table=True):
    """Tombstones: ids and addresses that must not come back, as salted digests. Those of one
    forgetting share a `grave`, so that they are lifted together."""

    __tablename__ = "tombstones"

    connection: str = Field(sa_column=Column(Text, primary_key=True))
    digest: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    erasure_id: str = Field(sa_type=Text)
    erased_at: int = Field(sa_type=BigInteger)


metadata = SQLModel.metadata
people = metadata.tables["people"]
lanes = metadata.tables["lanes"]
outbox = metadata.tables["outbox"]
requests = metadata.tables["requests"]
checkpoints = metadata.tables["checkpoints"]
leases = metadata.tables["leases"]
commands = metadata.tables["commands"]
quota_usage = metadata.tables["quota_usage"]
mappings = metadata.tables["mappings"]
accounts = metadata.tables["accounts"]
reads = metadata.tables["reads"]
profiles = metadata.tables["profiles"]
journal = metadata.tables["journal"]
approvals = metadata.tables["approvals"]
groups = metadata.tables["groups"]
source_members = metadata.tables["source_members"]
memberships = metadata.tables["memberships"]
deferred_memberships = metadata.tables["deferred_memberships"]
notifications = metadata.tables["notifications"]
salts = metadata.tables["salts"]
tombstones = metadata.tables["tombstones"]
backfills = metadata.tables["backfills"]
actions = metadata.tables["actions"]


STUCK = (State.HELD, State.DEAD)
TableOrAlias = Table | NamedFromClause


def is_stuck(table: TableOrAlias) -> ColumnElement[Any]:
    """Held or dead, in the words of the partial index."""
    return literal_column(f"{table.name}.state IN (4, 5)")


def in_state(state: State, table: TableOrAlias = outbox) -> ColumnElement[Any]:
    """`state` as a literal: SQLite uses a partial index only where it reads the index's words.

    Without a type, because a Boolean is written as `state = 0 = 1` for SQLite, which is no such
    words (tests/store/test_sqlite.py looks at the plans).
    """
    words: ColumnElement[Any] = literal_column(f"{table.name}.state = {int(state)}")
    if state in STUCK:
        return and_(is_stuck(table), words)
    return words
