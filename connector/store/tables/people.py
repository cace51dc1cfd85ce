"""Tables about people: who they are, which groups they are in, who was erased."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, Text
from sqlmodel import Field

from connector.store.tables.columns import Bounded, Row, RowId, metadata, partial_index


class People(Row, table=True):
    """People seen on a connection. `platform_id` is the id that they are read by, None while only
    an address is known, which then is one person's; `email` is the address that they have now. Both
    are `identifiers` too.
    `gone_at`: the platform no longer knows the person, according to the last read. The number of a
    person who was merged or erased is not used again."""

    __tablename__ = "people"
    __table_args__ = (
        Index("people_by_connection", "connection", "id"),
        partial_index(
            "people_with_address_only",
            "connection",
            "email",
            where="platform_id IS NULL",
            unique=True,
        ),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    connection: str = Field(sa_type=Text)
    platform_id: str | None = Field(default=None, sa_type=Text)
    email: str | None = Field(default=None, sa_type=Text)
    seen_at: int = Field(sa_type=BigInteger)
    gone_at: int | None = Field(default=None, sa_type=BigInteger)


class Identifiers(Row, table=True):
    """Everything that identifies a person. `kind` is connector.store.people.identifiers.Kind.

    An id belongs to one person. An address may belong to several; people.email says whose it is
    now, and a row of a former address stays.
    """

    __tablename__ = "identifiers"
    __table_args__ = (
        Index("identifiers_by_person", "person"),
        partial_index(
            "identifiers_of_one_person",
            "connection",
            "kind",
            "value",
            where="kind <> 'email'",
            unique=True,
        ),
        {"sqlite_with_rowid": False},
    )

    connection: str = Field(sa_column=Column(Text, primary_key=True))
    kind: str = Field(sa_column=Column(Text, primary_key=True))
    value: str = Field(sa_column=Column(Text, primary_key=True))
    person: int = Field(sa_column=Column(RowId, primary_key=True, autoincrement=False))


class Merges(Row, table=True):
    """People who turned out to be another one: `person` is no longer in `people`, all that they
    had belongs to `merged_into`."""

    __tablename__ = "merges"
    __table_args__ = (
        Index("merges_by_person", "person"),
        Index("merges_by_target", "merged_into"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    person: int = Field(sa_type=RowId)
    merged_into: int = Field(sa_type=RowId)


class Groups(Bounded, table=True):
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


class SourceMembers(Row, table=True):
    """Members of a source, as far as known. `scan`: the last scan that listed the member. `at`:
    when the newest information was requested or received; `gone`: reported as left.
    `join_pending`: the actions for a join are not stored yet."""

    __tablename__ = "source_members"
    __table_args__ = (
        partial_index("source_members_join_pending", "source", "email", where="join_pending = 1"),
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


class DeferredMemberships(Row, table=True):
    """Joins and leaves that a platform reported for people whose address is not known yet."""

    __tablename__ = "deferred_memberships"
    __table_args__ = (
        Index("deferred_memberships_by_person", "person"),
        Index("deferred_memberships_by_time", "at"),
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    connection: str = Field(sa_type=Text)
    person: int = Field(sa_type=RowId)
    platform_id: str | None = Field(default=None, sa_type=Text)
    audience: str = Field(sa_type=Text)
    joined: int = Field(sa_type=SmallInteger)
    at: int = Field(sa_type=BigInteger)


class Journal(Row, table=True):
    """Profile writes of people, for their timelines."""

    __tablename__ = "journal"
    __table_args__ = (
        Index("journal_by_person", "person", "id"),
        Index("journal_by_time", "at"),
    )

    id: int | None = Field(default=None, sa_column=Column(RowId, primary_key=True))
    person: int = Field(sa_type=RowId)
    at: int = Field(sa_type=BigInteger)
    kind: str = Field(sa_type=Text)
    outcome: str = Field(sa_type=Text)
    request: str | None = Field(default=None, sa_type=Text)
    data: bytes | None = Field(default=None, sa_type=LargeBinary)


class Salts(Bounded, table=True):
    """The salt of a connection's tombstones; created with its first erasure."""

    __tablename__ = "salts"

    connection: str = Field(sa_column=Column(Text, primary_key=True))
    salt: bytes = Field(sa_type=LargeBinary)


class Tombstones(Row, table=True):
    """Ids and addresses of erased people, as salted digests, so that they are not stored again.
    Those of one erasure share an `erasure_id` and are removed together."""

    __tablename__ = "tombstones"

    connection: str = Field(sa_column=Column(Text, primary_key=True))
    digest: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    erasure_id: str = Field(sa_type=Text)
    erased_at: int = Field(sa_type=BigInteger)


class UnsetFields(Bounded, table=True):
    """How many people lost a field since the beginning of a period (connector.domain.unsets), whose
    row of the empty field counts all writes of the lane; `writes` of the others is that number at
    `since`. `held`: the removal of the field waits for approval."""

    __tablename__ = "unset_fields"

    lane: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    field: str = Field(sa_column=Column(Text, primary_key=True))
    since: int = Field(sa_type=BigInteger)
    people: int = Field(default=0, sa_type=BigInteger)
    writes: int = Field(default=0, sa_type=BigInteger)
    allowed: int = Field(default=0, sa_type=BigInteger)
    held: int = Field(default=0, sa_type=SmallInteger)


people = metadata.tables["people"]
identifiers = metadata.tables["identifiers"]
merges = metadata.tables["merges"]
groups = metadata.tables["groups"]
source_members = metadata.tables["source_members"]
deferred_memberships = metadata.tables["deferred_memberships"]
journal = metadata.tables["journal"]
salts = metadata.tables["salts"]
tombstones = metadata.tables["tombstones"]
unset_fields = metadata.tables["unset_fields"]
