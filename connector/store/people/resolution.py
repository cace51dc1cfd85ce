"""The people of records, keys and listed people: found, created, or merged where identifiers turn
out to be one person's (guarantee 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import Connection, insert

from connector.domain.lanes import Millis
from connector.store.people import identifiers, merging, tombstones
from connector.store.people.identifiers import PersonRow
from connector.store.people.person_cache import PersonCache
from connector.store.people.person_locks import locked
from connector.store.prepared import Prepared, param, prepared_update
from connector.store.queues import action_identity
from connector.store.tables import people


class Identifiable(Protocol):
    """A record, key or listed person: the platform's id, further ids of the platform for the same
    person, and the address, where they are known."""

    @property
    def person(self) -> str | None: ...
    @property
    def email(self) -> str | None: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


@dataclass
class ResolvedPeople:
    """The person of each record, None without an id and address and for an erased person.
    `new_addresses`: people who got their first address. `erased`: the positions of records about
    erased people. `actions_changed`: actions were found to be these people's."""

    people: list[PersonRow | None] = field(default_factory=list)
    new_addresses: dict[int, str] = field(default_factory=dict)
    erased: set[int] = field(default_factory=set)
    actions_changed: bool = False


class PersonResolver:
    """The people of one connection, for one transaction. Those that the cache does not hold are
    looked up together, for all records.

    Two identifiers are one person's where a record has both: two ids, or an id and an address that
    no person with an id has. An address of several people with ids of their own is shared.
    """

    def __init__(
        self, c: Connection, connection: str, records: Sequence[Identifiable], cache: PersonCache
    ) -> None:
        self._c = c
        self._connection = connection
        self._tombstones = tombstones.load(c, connection, records)
        # The cache may hold people that another process has erased since.
        self._cache = PersonCache() if self._tombstones.salt else cache
        self._changed: set[int] = set()
        self._merged: dict[int, PersonRow] = {}
        self._gone: set[int] = set()
        self.resolved: list[PersonRow] = []
        self._loaded = False
        self._by_id: dict[str, PersonRow] = {}
        self._owners: dict[str, list[PersonRow]] = {}
        locked(c, lambda: self._load(records), lambda people: people)

    def resolve(
        self, records: Sequence[Identifiable], now: Millis, *, update_addresses: bool = True
    ) -> ResolvedPeople:
        """Find or create the person of each record, in order, so that a later address wins. With
        `update_addresses` False people keep the address that they have."""
        found = ResolvedPeople()
        for position, record in enumerate(records):
            if self._tombstones.contains(record):
                found.people.append(None)
                found.erased.add(position)
                continue
            person = self._cached(record)
            if person is None or person.id in self._changed:
                person = self._find_or_create(record, found, now, update_addresses)
                if person and person.email:
                    self.resolved.append(person)
                    self._changed.add(person.id)
            found.people.append(person)
        found.people = [self.survivor(person) for person in found.people]
        self.resolved = [p for p in self.resolved if p.id not in self._merged]
        return found

    def survivor(self, person: PersonRow | None) -> PersonRow | None:
        """The person that this one was merged into in this transaction, else the person."""
        while person is not None and person.id in self._merged:
            person = self._merged[person.id]
        return person

    def survivor_id(self, person: int) -> int:
        """The same by number."""
        while person in self._merged:
            person = self._merged[person].id
        return person

    def _load(self, records: Sequence[Identifiable]) -> list[PersonRow]:
        """Look up the people of the records, and return them and those of the cache."""
        if self._loaded:
            # A person of the cache may be gone, by an erasure that has ended since.
            self._cache = PersonCache()
            self._tombstones = tombstones.load(self._c, self._connection, records)
        self._loaded = True
        cached = [person for record in records if (person := self._cached(record))]
        self._gone = identifiers.missing(self._c, {person.id for person in cached})
        cached = [person for person in cached if person.id not in self._gone]
        unknown = [record for record in records if self._cached(record) is None]
        ids = {id for record in unknown for id in _ids_of(record)}
        emails = {record.email for record in unknown if record.email}
        self._by_id = identifiers.by_id(self._c, self._connection, ids)
        self._owners = identifiers.owners(self._c, self._connection, emails)
        owners = [owner for owners in self._owners.values() for owner in owners]
        return [*cached, *self._by_id.values(), *owners]

    def _cached(self, record: Identifiable) -> PersonRow | None:
        if record.aliases:
            return None
        person = self._cache.find(self._connection, record.person, record.email)
        if person is None or person.id in self._merged or person.id in self._gone:
            return None
        return person

    def _find_or_create(
        self, record: Identifiable, found: ResolvedPeople, now: Millis, update_address: bool
    ) -> PersonRow | None:
        ids = _ids_of(record)
        if not ids and not record.email:
            return None
        before = self._matches(ids, record.email)
        person = before[0] if before else self._create(record, ids, found, now)
        for other in before[1:]:
            person = self._merge(person, other, found, now)
        if before:
            person = self._update(person, record, ids, found, now, update_address)
        for id in (*ids, person.platform_id):
            if id:
                self._by_id[id] = person
        if person.email:
            others = self._owners.get(person.email, ())
            self._owners[person.email] = [*(o for o in others if o.id != person.id), person]
        return person

    def _matches(self, ids: Sequence[str], email: str | None) -> list[PersonRow]:
        """The people of a record, who are one person: those with its ids, and those with
        nothing but its address. Without an id the address alone decides."""
        owners = self._owners.get(email or "", [])
        address_only = [owner for owner in owners if owner.platform_id is None]
        if ids:
            known = [self._by_id[id] for id in ids if id in self._by_id]
            matches = [*known, *address_only]
        else:
            matches = [*owners[-1:], *address_only]
        return list({person.id: person for person in matches}.values())

    def _create(
        self, record: Identifiable, ids: Sequence[str], found: ResolvedPeople, now: Millis
    ) -> PersonRow:
        platform_id = ids[0] if ids else None
        values = {
            "connection": self._connection,
            "platform_id": platform_id,
            "email": record.email,
            "seen_at": now,
        }
        [id] = _CREATE.first(self._c, **values)
        person = PersonRow(id, self._connection, platform_id, record.email)
        self._add_identifiers(person, ids, found)
        return person

    def _update(
        self,
        person: PersonRow,
        record: Identifiable,
        ids: Sequence[str],
        found: ResolvedPeople,
        now: Millis,
        update_address: bool,
    ) -> PersonRow:
        email = (record.email if update_address else None) or person.email or record.email
        platform_id = person.platform_id or (ids[0] if ids else None)
        updated = person._replace(platform_id=platform_id, email=email)
        new_ids = [id for id in ids if id not in self._by_id]
        if updated == person and not new_ids:
            return person
        if email and not person.email:
            found.new_addresses[person.id] = email
        if updated != person:
            values = {"platform_id": platform_id, "email": email, "seen_at": now}
            _UPDATE.run(self._c, row=person.id, **values)
        self._add_identifiers(updated, new_ids, found)
        if action_identity.mark_releasable(self._c, self._connection, [person.id]):
            found.actions_changed = True
        return updated

    def _add_identifiers(
        self, person: PersonRow, ids: Sequence[str], found: ResolvedPeople
    ) -> None:
        named = [(id, person.id) for id in ids]
        identifiers.add(self._c, self._connection, "platform_id", named)
        if person.email:
            identifiers.add(self._c, self._connection, "email", [(person.email, person.id)])
        if action_identity.adopt(self._c, self._connection, dict(named)):
            found.actions_changed = True

    def _merge(
        self, keep: PersonRow, gone: PersonRow, found: ResolvedPeople, now: Millis
    ) -> PersonRow:
        merged = merging.merge(self._c, keep, gone, now)
        found.actions_changed = True
        self._merged[gone.id] = merged
        self._changed.discard(gone.id)
        if merged.email and not (keep.email and gone.email):
            found.new_addresses[merged.id] = merged.email
        for value, person in self._by_id.items():
            if person.id in (keep.id, gone.id):
                self._by_id[value] = merged
        for email, owners in self._owners.items():
            self._owners[email] = [o for o in owners if o.id not in (keep.id, gone.id)]
        if merged.email:
            self._owners.setdefault(merged.email, []).append(merged)
        return merged


_UPDATE = prepared_update(people, "id", ("platform_id", "email", "seen_at"))
_CREATE = Prepared(
    insert(people)
    .values({name: param(name) for name in ("connection", "platform_id", "email", "seen_at")})
    .returning(people.c.id)
)


def _ids_of(record: Identifiable) -> tuple[str, ...]:
    """The ids of a record, the one to read the person by first."""
    return tuple(dict.fromkeys(id for id in (record.person, *record.aliases) if id))
