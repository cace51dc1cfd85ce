"""Tables that lanes take their entries from, and the requests that carried them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, Table, Text
from sqlmodel import Field

from connector.store.tables.columns import (
    WAITING,
    QueueColumns,
    Row,
    RowId,
    claimed_index,
    metadata,
    partial_index,
    ready_index,
    retrying_index,
    stuck_index,
)


class Outbox(QueueColumns, table=True):
    """Records: log, ledger and timeline at once (docs/decisions/0002-store.md).

    A record keeps its row from receipt until retention ends: one insert and two updates.
    `digest` stands for the record's key; a redelivery has the same.
    `delivery_mode` is connector.domain.lanes.DeliveryMode. `suppressed`: why nothing was sent when
    it was received, so that it is never sent.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("outbox_by_digest", "digest", unique=True),
        ready_index("outbox", "seq", "delivery_mode"),
        partial_index("outbox_waiting", "lane", "seq", where=WAITING),
        retrying_index("outbox", "seq"),
        claimed_index("outbox"),
        stuck_index("outbox", "seq"),
        partial_index(
            "outbox_stuck_by_seq", "seq", "lane", "state", "problem", where="state IN (4, 5)"
        ),
        Index("outbox_by_person", "person", "seq"),
    )

    seq: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    delivery_mode: int = Field(default=0, sa_type=SmallInteger)
    digest: bytes = Field(sa_type=LargeBinary)
    unique_id: str = Field(sa_type=Text)
    name: str = Field(sa_type=Text)
    occurred_at: int = Field(sa_type=BigInteger)
    received_at: int = Field(sa_type=BigInteger)
    via: str = Field(sa_type=Text)
    suppressed: str | None = Field(default=None, sa_type=Text)
    person: int | None = Field(default=None, sa_type=RowId)
    email: str | None = Field(default=None, sa_type=Text)
    data: bytes = Field(sa_type=LargeBinary)
    mapping: str | None = Field(default=None, sa_type=Text)
    settled_at: int | None = Field(default=None, sa_type=BigInteger)
    request: str | None = Field(default=None, sa_type=Text)


class Reads(QueueColumns, table=True):
    """People to read again at their platform.

    `requested_at`: when the newest event that asks for the read was received. `sent_at`: when the
    last read was sent; a read is due while requested_at > sent_at. `refetch`: the next read also
    fetches what is cached. `backfill`: the last backfill that asked for the person.
    """

    __tablename__ = "reads"
    __table_args__ = (
        ready_index("reads", "person", None),
        stuck_index("reads", "person"),
        claimed_index("reads"),
        retrying_index("reads", "person"),
        partial_index("reads_of_backfill", "backfill", where="backfill IS NOT NULL"),
    )

    person: int = Field(sa_column=Column(RowId, primary_key=True, autoincrement=False))
    requested_at: int = Field(sa_type=BigInteger)
    sent_at: int = Field(default=0, sa_type=BigInteger)
    view: bytes | None = Field(default=None, sa_type=LargeBinary)
    view_at: int | None = Field(default=None, sa_type=BigInteger)
    refetch: int = Field(default=0, sa_type=SmallInteger)
    backfill: int | None = Field(default=None, sa_type=RowId)


class Profiles(QueueColumns, table=True):
    """Profile state at Klaviyo (connector.domain.profile_state.Profile) and its next write.

    `address` is a digest of the account and the address: one write for it at a time. `receipt`
    is the import job that holds the write in flight, `position` the person's place in it.
    `write_mode` is connector.domain.profiles.WriteMode. `lost_jobs`: how many import jobs that held
    the write were lost. `merged_into`: the person turned out to be this one, and the row stays
    until its write has ended. `ambiguous_until`: until then an earlier write, or an event that
    carried fields of the person, may still be applied.
    """

    __tablename__ = "profiles"
    __table_args__ = (
        ready_index("profiles", "person", "write_mode"),
        claimed_index("profiles"),
        retrying_index("profiles", "person"),
        stuck_index("profiles", "person"),
        partial_index("profiles_skipped", "lane", "person", where="state = 3"),
        partial_index("profiles_in_flight", "lane", "receipt", "person", where="state = 1"),
        partial_index("profiles_merged", "merged_into", where="merged_into IS NOT NULL"),
        Index("profiles_by_address", "address"),
    )

    person: int = Field(sa_column=Column(RowId, primary_key=True, autoincrement=False))
    write_mode: int = Field(default=0, sa_type=SmallInteger)
    address: bytes | None = Field(default=None, sa_type=LargeBinary)
    since: int = Field(default=0, sa_type=BigInteger)
    receipt: str | None = Field(default=None, sa_type=Text)
    position: int | None = Field(default=None, sa_type=Integer)
    sent: bytes | None = Field(default=None, sa_type=LargeBinary)
    request: str | None = Field(default=None, sa_type=Text)
    settled_at: int | None = Field(default=None, sa_type=BigInteger)
    mapping: str | None = Field(default=None, sa_type=Text)
    identity: str = Field(sa_type=Text)
    wanted: str = Field(sa_type=Text)
    confirmed: str = Field(sa_type=Text)
    ambiguous_until: int = Field(default=0, sa_type=BigInteger)
    address_cleanups: str | None = Field(default=None, sa_type=Text)
    pending_move: str | None = Field(default=None, sa_type=Text)
    profile_id: str | None = Field(default=None, sa_type=Text)
    lost_jobs: int = Field(default=0, sa_type=SmallInteger)
    merged_into: int | None = Field(default=None, sa_type=RowId)


class Memberships(QueueColumns, table=True):
    """People as members of a target. `wanted`, `confirmed` (NULL: unknown) and `sent` are 1 for in
    and 0 for out. `added_by_us`: the connector may have added the member.

    `change` is connector.domain.memberships.Change. `address` is compared with profiles.address.
    `last_seen_scan`: the last read-back that listed the member. `unconfirmed`: the remote side
    accepted the change without reporting its result. `lost_jobs`: how many import jobs that held
    the change were lost. `ambiguous_until`: until then an earlier change may still be applied.
    """

    __tablename__ = "memberships"
    __table_args__ = (
        Index("memberships_by_email", "target", "email", unique=True),
        ready_index("memberships", "id", "change"),
        retrying_index("memberships", "id"),
        partial_index("memberships_in_flight", "lane", "receipt", "id", where="state = 1"),
        partial_index("memberships_by_address", "address", where="state = 1"),
        stuck_index("memberships", "id"),
        partial_index("memberships_skipped", "lane", "id", where="state = 3"),
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    change: int = Field(default=0, sa_type=SmallInteger)
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
    ambiguous_until: int = Field(default=0, sa_type=BigInteger)
    since: int = Field(sa_type=BigInteger)
    receipt: str | None = Field(default=None, sa_type=Text)
    position: int | None = Field(default=None, sa_type=Integer)
    request: str | None = Field(default=None, sa_type=Text)
    settled_at: int = Field(default=0, sa_type=BigInteger)
    profile_id: str | None = Field(default=None, sa_type=Text)
    platform_id: str | None = Field(default=None, sa_type=Text)


class Actions(QueueColumns, table=True):
    """Requested adjustments and pushes: ledger and state in one row.

    `digest` is the identity (connection, route, person, key), `content` a digest of the rest.
    `person_key` identifies the person for order and caps. `step` is connector.domain.actions.Step;
    `lookups` counts the look-ups since, `resent` is 1 after a second send. `sent_at` is written
    before the request leaves, and `sent_with`, a digest of the platform's settings, with it.
    `counted_at` is when the action began to count against the caps.
    `releasable`: it is held for its person, and more is known about them. `forced`: after `again`
    neither a cap nor an unknown person holds it any more. `suppressed` as in Outbox.
    """

    __tablename__ = "actions"
    __table_args__ = (
        Index("actions_by_digest", "digest", unique=True),
        ready_index("actions", "seq", "step"),
        partial_index("actions_unsent", "person_key", "seq", where="state IN (0, 1) AND step = 0"),
        claimed_index("actions"),
        retrying_index("actions", "seq"),
        stuck_index("actions", "seq"),
        partial_index(
            "actions_stuck_by_seq", "seq", "lane", "state", "problem", where="state IN (4, 5)"
        ),
        partial_index("actions_uncertain", "seq", "lane", where="state IN (0, 1) AND step = 1"),
        partial_index("actions_held", "lane", "problem", "person_key", "amount", where="state = 4"),
        Index("actions_by_person_key", "person_key", "counted_at"),
        Index("actions_by_time", "lane", "counted_at"),
        Index("actions_by_lane", "lane", "seq"),
        partial_index("actions_releasable", "lane", "seq", where="releasable = 1"),
        partial_index("actions_of_unknown", "customer", where="person IS NULL"),
        {"sqlite_autoincrement": True},
    )

    seq: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    step: int = Field(default=0, sa_type=SmallInteger)
    digest: bytes = Field(sa_type=LargeBinary)
    content: bytes = Field(sa_type=LargeBinary)
    origin: str = Field(sa_type=Text)
    route: str = Field(sa_type=Text)
    name: str = Field(sa_type=Text)
    ref: str = Field(sa_type=Text)
    received_at: int = Field(sa_type=BigInteger)
    counted_at: int = Field(sa_type=BigInteger)
    releasable: int = Field(default=0, sa_type=SmallInteger)
    forced: int = Field(default=0, sa_type=SmallInteger)
    suppressed: str | None = Field(default=None, sa_type=Text)
    person_key: bytes = Field(sa_type=LargeBinary)
    person: int | None = Field(default=None, sa_type=RowId)
    email: str | None = Field(default=None, sa_type=Text)
    customer: str | None = Field(default=None, sa_type=Text)
    amount: int = Field(sa_type=BigInteger)
    data: bytes = Field(sa_type=LargeBinary)
    sent_at: int | None = Field(default=None, sa_type=BigInteger)
    sent_with: str | None = Field(default=None, sa_type=Text)
    lookups: int = Field(default=0, sa_type=SmallInteger)
    resent: int = Field(default=0, sa_type=SmallInteger)
    settled_at: int | None = Field(default=None, sa_type=BigInteger)
    request: str | None = Field(default=None, sa_type=Text)
    platform_ref: str | None = Field(default=None, sa_type=Text)
    evidence: str | None = Field(default=None, sa_type=Text)
    decided_by: str | None = Field(default=None, sa_type=Text)
    decided_at: int | None = Field(default=None, sa_type=BigInteger)


class Requests(Row, table=True):
    """Requests that were sent, for timelines and dead letters."""

    __tablename__ = "requests"
    __table_args__ = (Index("requests_by_time", "sent_at"),)

    id: str = Field(sa_column=Column(Text, primary_key=True))
    lane: int = Field(sa_type=Integer)
    endpoint: str = Field(sa_type=Text)
    sent_at: int = Field(sa_type=BigInteger)
    status: int | None = Field(default=None, sa_type=Integer)
    millis: int = Field(sa_type=Integer)
    problem: str | None = Field(default=None, sa_type=Text)


outbox = metadata.tables["outbox"]
reads = metadata.tables["reads"]
profiles = metadata.tables["profiles"]
memberships = metadata.tables["memberships"]
actions = metadata.tables["actions"]
requests = metadata.tables["requests"]


@dataclass(frozen=True, eq=False)
class QueueTable:
    """What the statements of connector.store.queues.queue need to know of a table.

    `mode`: the column whose values 0 and 1 are claimed as connector.domain.lanes.DeliveryMode BATCH
    and SINGLE; None where every row is BATCH. `since`: when what waits in a row came to be.
    """

    table: Table
    key: Column[Any]
    mode: Column[Any] | None
    since: Column[Any]


outbox_queue = QueueTable(outbox, outbox.c.seq, outbox.c.delivery_mode, outbox.c.received_at)
reads_queue = QueueTable(reads, reads.c.person, None, reads.c.requested_at)
profiles_queue = QueueTable(profiles, profiles.c.person, profiles.c.write_mode, profiles.c.since)
memberships_queue = QueueTable(
    memberships, memberships.c.id, memberships.c.change, memberships.c.since
)
actions_queue = QueueTable(actions, actions.c.seq, actions.c.step, actions.c.received_at)
