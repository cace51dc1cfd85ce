"""The people of a connection: joins records without an address to their person (guarantee 1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection, Text, bindparam, insert, select, update

from connector.domain.lanes import Millis
from connector.domain.profiles import Observation
from connector.domain.records import State
from connector.store.people import tombstones
from connector.store.queues import membership_events
from connector.store.statements import chunks
from connector.store.tables import in_state, outbox, people


class Identified(Protocol):
    """Information about a person: from a record or from a read."""

    @property
    def person(self) -> str | None: ...
    @property
    def email(self) -> str | None: ...


class PersonRow(NamedTuple):
    """A person's row. `platform_id` is None while only the address has been seen."""

    id: int
    connection: str
    platform_id: str | None
    email: str | None


class PersonCache:
    """The people written lately, so that a well-known one costs no query.

    Used only where a record brings the same id and address again: what it then saves is a write
    that would change nothing. So of a person only the newest id and address are kept.
    """

    def __init__(self, size: int = 50_000) -> None:
        self._size = size
        self._ids: OrderedDict[tuple[str, str | None, str | None], PersonRow] = OrderedDict()
        self._newest: dict[int, PersonRow] = {}

    def find(self, connection: str, platform_id: str | None, email: str | None) -> PersonRow | None:
        return self._ids.get((connection, platform_id, email)) if email else None

    def remember(self, people: Sequence[PersonRow]) -> None:
        for known in people:
            older = self._newest.get(known.id)
            if older and self._ids.get(older[1:]) == older:
                del self._ids[older[1:]]
            displaced = self._ids.pop(known[1:], None)
            if displaced:
                self._newest.pop(displaced.id, None)
            self._ids[known[1:]] = self._newest[known.id] = known
        while len(self._ids) > self._size:
            _, oldest = self._ids.popitem(last=False)
            self._newest.pop(oldest.id, None)


@dataclass
class ResolvedPeople:
    """One person per record (None without id and address, and for one who was forgotten), which
    records are about forgotten people, and who got an address just now."""

    people: list[PersonRow | None]
    new_addresses: dict[int, str] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)


class PersonResolver:
    """The people of one connection, for one transaction: those that `seen` does not know are
    looked up at once, for all the pages of a group."""

    def __init__(
        self, c: Connection, connection: str, records: Sequence[Identified], cache: PersonCache
    ) -> None:
        self._c = c
        self._connection = connection
        self._tombstones = tombstones.load(c, connection, records)
        # What was learnt of people may be of one who was forgotten since, by another process.
        self._person_cache = cache = PersonCache() if self._tombstones.salt else cache
        self._changed: set[int] = set()
        self.resolved: list[PersonRow] = []
        unknown = [r for r in records if cache.find(connection, r.person, r.email) is None]
        ids = {r.person for r in unknown if r.person}
        emails = {r.email for r in unknown if r.email}
        self._by_id, self._by_email = lookup(c, connection, ids, emails)

    def resolve(self, records: Sequence[Identified], now: Millis) -> ResolvedPeople:
        """Find or make the person of each record, in order, so that a later address wins."""
        found = ResolvedPeople([])
        for place, record in enumerate(records):
            if self._tombstones.contains(record):
                found.people.append(None)
                found.forgotten.add(place)
                continue
            known = self._person_cache.find(self._connection, record.person, record.email)
            if known is None or known.id in self._changed:
                known = _resolve_one(
                    self._c, self._connection, record, self._by_id, self._by_email, found, now
                )
                if known and known.email:
                    self.resolved.append(known)
                    self._changed.add(known.id)
            found.people.append(known)
        return found


def find(c: Connection, connection: str, keys: Sequence[Identified]) -> list[PersonRow | None]:
    """The people of these addresses and ids, where they are known."""
    ids = {who.person for who in keys if who.person}
    emails = {who.email for who in keys if who.email}
    by_id, by_email = lookup(c, connection, ids, emails)
    return [
        (by_id.get(who.person) if who.person else None) or by_email.get(who.email or "")
        for who in keys
    ]


def get_or_create(
    c: Connection, connection: str, ids: set[str], emails: set[str], now: Millis
) -> tuple[dict[str, PersonRow], dict[str, PersonRow]]:
    """People by the platform's id, as far as they have been seen, and by address: whoever was
    never seen before is known from now on, by the address alone."""
    by_id, by_email = lookup(c, connection, ids, emails)
    new = [email for email in emails if email not in by_email]
    if new:
        c.execute(
            insert(people),
            [{"connection": connection, "email": email, "seen_at": now} for email in new],
        )
        by_email |= lookup(c, connection, set(), set(new))[1]
    return by_id, by_email


_COLUMNS = (people.c.id, people.c.connection, people.c.platform_id, people.c.email)
_LOOKUP_QUERIES = tuple(
    select(*_COLUMNS)
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
    """People who have been seen, by the platform's id and by address: the latest where several
    have one."""
    by_id: dict[str, PersonRow] = {}
    by_email: dict[str, PersonRow] = {}
    for query, values in zip(_LOOKUP_QUERIES, (ids, emails), strict=True):
        for part in chunks(list(values)):
            for row in c.execute(query, {"connection": connection, "values": part}):
                found = PersonRow(*row)
                if found.platform_id:
                    by_id[found.platform_id] = found
                if found.email:
                    by_email[found.email] = found
    return by_id, by_email


def rows_by_id(c: Connection, ids: set[int]) -> dict[int, PersonRow]:
    """People by their number."""
    found: dict[int, PersonRow] = {}
    for part in chunks(list(ids)):
        rows = c.execute(select(*_COLUMNS).where(people.c.id.in_(part)))
        found.update((row.id, PersonRow(*row)) for row in rows)
    return found


def _resolve_one(
    c: Connection,
    connection: str,
    record: Identified,
    by_id: dict[str, PersonRow],
    by_email: dict[str, PersonRow],
    found: ResolvedPeople,
    now: Millis,
) -> PersonRow | None:
    if not record.person and not record.email:
        return None
    known = by_id.get(record.person) if record.person else by_email.get(record.email or "")
    if known is None and record.person and record.email:
        address_only = by_email.get(record.email)
        if address_only and address_only.platform_id is None:
            known = address_only
    email = record.email or (known.email if known else None)
    if known is None:
        values: dict[str, Any] = {
            "connection": connection,
            "platform_id": record.person,
            "email": email,
            "seen_at": now,
        }
        row = c.execute(insert(people).values(values).returning(people.c.id)).scalar_one()
        known = PersonRow(row, connection, record.person, email)
    elif (known.platform_id, known.email) != (record.person or known.platform_id, email):
        if email and not known.email:
            found.new_addresses[known.id] = email
        known = PersonRow(known.id, connection, record.person or known.platform_id, email)
        c.execute(
            update(people)
            .where(people.c.id == known.id)
            .values(platform_id=known.platform_id, email=email, seen_at=now)
        )
    if known.platform_id:
        by_id[known.platform_id] = known
    if known.email:
        by_email[known.email] = known
    return known


def record_addresses(c: Connection, seen: Sequence[Observation], now: Millis) -> None:
    """Addresses found by reads by id belong to the people from then on, unless something newer gave
    another. Records that wait for one get it and go; those of a person who is withheld lose theirs
    and go too, for their lane to skip and count."""
    updates = [
        {"who": o.person, "address": None if o.withheld else o.email, "at": o.at, "now": now}
        for o in seen
        if o.email or o.withheld
    ]
    if updates:
        c.execute(_SET_ADDRESS, updates)
        c.execute(_RELEASE_EVENTS, updates)
        membership_events.apply_deferred(
            c, {o.person: o.email for o in seen if o.email and not o.withheld}
        )


_ADDRESS = bindparam("address", type_=Text)
_SET_ADDRESS = (
    update(people)
    .where(
        people.c.id == bindparam("who"),
        people.c.email.is_distinct_from(_ADDRESS),
        people.c.email.is_(None) | (people.c.seen_at <= bindparam("at")),
    )
    .values(email=_ADDRESS, seen_at=bindparam("at"))
)
_CURRENT_ADDRESS = select(people.c.email).where(people.c.id == bindparam("who")).scalar_subquery()
_HELD_WITHOUT_ADDRESS = in_state(State.HELD) & outbox.c.email.is_(None)
_ADDRESS_CHANGED = (
    in_state(State.READY)
    & (outbox.c.attempts == 0)
    & (outbox.c.received_at <= bindparam("at"))
    & outbox.c.email.is_distinct_from(_CURRENT_ADDRESS)
)
_RELEASE_EVENTS = (
    update(outbox)
    .where(outbox.c.person == bindparam("who"), _HELD_WITHOUT_ADDRESS | _ADDRESS_CHANGED)
    .values(
        state=State.READY, email=_CURRENT_ADDRESS, problem=None, detail="", due=bindparam("now")
    )
)
