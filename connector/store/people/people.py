"""The people of a connection, found or created for records and reads (guarantee 1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Text, bindparam, insert, select, update

from connector.domain.lanes import Millis
from connector.domain.profiles import Observation
from connector.domain.records import State
from connector.store.people import tombstones
from connector.store.people.tombstones import Identified
from connector.store.queues import membership_events
from connector.store.statements import chunks
from connector.store.tables import in_state, outbox, people


class PersonRow(NamedTuple):
    """A stored person. The names are those of the columns. `platform_id` is None while only the
    address has been seen."""

    id: int
    connection: str
    platform_id: str | None
    email: str | None


class PersonCache:
    """The people of the last records, so that a repeated one costs no query.

    A hit means that a record has the same id and address as the last one of its person, so that
    the row need not be read or written. Only the newest id and address of a person are kept.
    """

    def __init__(self, size: int = 50_000) -> None:
        self._size = size
        self._ids: OrderedDict[tuple[str, str | None, str | None], PersonRow] = OrderedDict()
        self._newest: dict[int, PersonRow] = {}

    def find(self, connection: str, platform_id: str | None, email: str | None) -> PersonRow | None:
        return self._ids.get((connection, platform_id, email)) if email else None

    def remember(self, people: Sequence[PersonRow]) -> None:
        for person in people:
            older = self._newest.get(person.id)
            if older and self._ids.get(older[1:]) == older:
                del self._ids[older[1:]]
            displaced = self._ids.pop(person[1:], None)
            if displaced:
                self._newest.pop(displaced.id, None)
            self._ids[person[1:]] = self._newest[person.id] = person
        while len(self._ids) > self._size:
            _, oldest = self._ids.popitem(last=False)
            self._newest.pop(oldest.id, None)


@dataclass
class ResolvedPeople:
    """The person of each record, None without an id and address and for an erased person.
    `new_addresses`: people who got their first address. `erased`: the positions of records about
    erased people."""

    people: list[PersonRow | None] = field(default_factory=list)
    new_addresses: dict[int, str] = field(default_factory=dict)
    erased: set[int] = field(default_factory=set)


class PersonResolver:
    """The people of one connection, for one transaction. Those that the cache does not hold are
    looked up together, for all records."""

    def __init__(
        self, c: Connection, connection: str, records: Sequence[Identified], cache: PersonCache
    ) -> None:
        self._c = c
        self._connection = connection
        self._tombstones = tombstones.load(c, connection, records)
        # The cache may hold people that another process has erased since.
        self._cache = cache = PersonCache() if self._tombstones.salt else cache
        self._changed: set[int] = set()
        self.resolved: list[PersonRow] = []
        unknown = [r for r in records if cache.find(connection, r.person, r.email) is None]
        ids = {r.person for r in unknown if r.person}
        emails = {r.email for r in unknown if r.email}
        self._by_id, self._by_email = lookup(c, connection, ids, emails)

    def resolve(self, records: Sequence[Identified], now: Millis) -> ResolvedPeople:
        """Find or create the person of each record, in order, so that a later address wins."""
        found = ResolvedPeople()
        for position, record in enumerate(records):
            if self._tombstones.contains(record):
                found.people.append(None)
                found.erased.add(position)
                continue
            person = self._cache.find(self._connection, record.person, record.email)
            if person is None or person.id in self._changed:
                person = self._find_or_create(record, found, now)
                if person and person.email:
                    self.resolved.append(person)
                    self._changed.add(person.id)
            found.people.append(person)
        return found

    def _find_or_create(
        self, record: Identified, found: ResolvedPeople, now: Millis
    ) -> PersonRow | None:
        if not record.person and not record.email:
            return None
        person = self._find(record)
        if person is None:
            person = self._create(record, now)
        else:
            email = record.email or person.email
            updated = person._replace(platform_id=record.person or person.platform_id, email=email)
            if updated != person:
                if email and not person.email:
                    found.new_addresses[person.id] = email
                values = {"platform_id": updated.platform_id, "email": email, "seen_at": now}
                self._c.execute(update(people).where(people.c.id == person.id).values(values))
            person = updated
        if person.platform_id:
            self._by_id[person.platform_id] = person
        if person.email:
            self._by_email[person.email] = person
        return person

    def _find(self, record: Identified) -> PersonRow | None:
        """By id, else by address. A person known only by address gets the id of the record."""
        if not record.person:
            return self._by_email.get(record.email or "")
        person = self._by_id.get(record.person)
        if person is None and record.email:
            address_only = self._by_email.get(record.email)
            if address_only and address_only.platform_id is None:
                return address_only
        return person

    def _create(self, record: Identified, now: Millis) -> PersonRow:
        values: dict[str, Any] = {
            "connection": self._connection,
            "platform_id": record.person,
            "email": record.email,
            "seen_at": now,
        }
        statement = insert(people).values(values).returning(people.c.id)
        id = self._c.execute(statement).scalar_one()
        return PersonRow(id, self._connection, record.person, record.email)


def find(c: Connection, connection: str, keys: Sequence[Identified]) -> list[PersonRow | None]:
    """The person of each key, None where there is none."""
    ids = {key.person for key in keys if key.person}
    emails = {key.email for key in keys if key.email}
    by_id, by_email = lookup(c, connection, ids, emails)
    return [
        (by_id.get(key.person) if key.person else None) or by_email.get(key.email or "")
        for key in keys
    ]


def get_or_create(
    c: Connection, connection: str, ids: set[str], emails: set[str], now: Millis
) -> tuple[dict[str, PersonRow], dict[str, PersonRow]]:
    """People by platform id, where they are stored, and by address: people who are not stored are
    created, by address alone."""
    by_id, by_email = lookup(c, connection, ids, emails)
    new = [email for email in emails if email not in by_email]
    if new:
        c.execute(
            insert(people),
            [{"connection": connection, "email": email, "seen_at": now} for email in new],
        )
        by_email |= lookup(c, connection, set(), set(new))[1]
    return by_id, by_email


COLUMNS = tuple(people.c[name] for name in PersonRow._fields)
_LOOKUP_QUERIES = tuple(
    select(*COLUMNS)
    .where(
        people.c.connection == bindparam("connection"),
        column.in_(bindparam("values", expanding=True)),
    )
    .order_by(people.c.seen_at, people.c.id)
    for column in (people.c.platform_id, people.c.email)
)


def lookup(
    c: Connection, connection: str, ids: set[str], emails: set[str]
) -> tuple[dict[str, PersonRow], dict[str, PersonRow]]:
    """Stored people by platform id and by address: of several with one address the latest."""
    by_id: dict[str, PersonRow] = {}
    by_email: dict[str, PersonRow] = {}
    for query, values in zip(_LOOKUP_QUERIES, (ids, emails), strict=True):
        for part in chunks(list(values)):
            for row in c.execute(query, {"connection": connection, "values": part}):
                found = PersonRow._make(row)
                if found.platform_id:
                    by_id[found.platform_id] = found
                if found.email:
                    by_email[found.email] = found
    return by_id, by_email


def rows_by_id(c: Connection, ids: set[int]) -> dict[int, PersonRow]:
    """People by their number."""
    found: dict[int, PersonRow] = {}
    for part in chunks(list(ids)):
        rows = c.execute(select(*COLUMNS).where(people.c.id.in_(part)))
        found.update((row.id, row) for row in map(PersonRow._make, rows))
    return found


def record_addresses(c: Connection, observed: Sequence[Observation], now: Millis) -> None:
    """Save the addresses that reads by id found, unless newer information gave another.

    Records that wait for an address get it and become ready. Those of a withheld person lose
    theirs and become ready too: their lane skips and counts them.
    """
    updates = [
        {"row": o.person, "address": None if o.withheld else o.email, "at": o.at, "now": now}
        for o in observed
        if o.email or o.withheld
    ]
    if updates:
        c.execute(_SET_ADDRESS, updates)
        c.execute(_RELEASE_EVENTS, updates)
        membership_events.apply_deferred(
            c, {o.person: o.email for o in observed if o.email and not o.withheld}
        )


_ADDRESS = bindparam("address", type_=Text)
_SET_ADDRESS = (
    update(people)
    .where(
        people.c.id == bindparam("row"),
        people.c.email.is_distinct_from(_ADDRESS),
        people.c.email.is_(None) | (people.c.seen_at <= bindparam("at")),
    )
    .values(email=_ADDRESS, seen_at=bindparam("at"))
)
_CURRENT_ADDRESS = select(people.c.email).where(people.c.id == bindparam("row")).scalar_subquery()
_HELD_WITHOUT_ADDRESS = in_state(State.HELD) & outbox.c.email.is_(None)
_ADDRESS_CHANGED = (
    in_state(State.READY)
    & (outbox.c.attempts == 0)
    & (outbox.c.received_at <= bindparam("at"))
    & outbox.c.email.is_distinct_from(_CURRENT_ADDRESS)
)
_RELEASE_EVENTS = (
    update(outbox)
    .where(outbox.c.person == bindparam("row"), _HELD_WITHOUT_ADDRESS | _ADDRESS_CHANGED)
    .values(
        state=State.READY, email=_CURRENT_ADDRESS, problem=None, detail="", due=bindparam("now")
    )
)
