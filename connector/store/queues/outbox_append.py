"""Pages of records stored with all that follows from them, in one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, insert, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import (
    ACTIONS,
    EVENTS,
    LIST_MEMBERS,
    PROFILES,
    READS,
    SEGMENT_MEMBERS,
    Lane,
    LaneId,
    LaneKind,
    Millis,
)
from connector.domain.profiles import Observation
from connector.domain.records import Appended, Page, Record, State
from connector.ports import Member
from connector.store.admin import facts
from connector.store.people.identifiers import PersonRow
from connector.store.people.person_cache import PersonCache
from connector.store.people.resolution import PersonResolver, ResolvedPeople
from connector.store.prepared import Prepared, param
from connector.store.queues import membership_events, profile_observations, read_requests
from connector.store.tables import in_state, outbox

Row = dict[str, Any]
"""Column → value of a record that is stored at the end of the transaction."""


def append(
    c: Connection, pages: Sequence[Page], cache: PersonCache
) -> tuple[list[Appended], list[PersonRow]]:
    """Results in the order of the pages, and the people found or created on the way."""
    batch = _Batch(c, pages, cache)
    appended = [batch.add(page) for page in pages]
    batch.write()
    return appended, batch.resolved


def release_held(c: Connection, new_addresses: Mapping[int, str], now: Millis) -> int:
    """Give the stored records that wait for these people their address; how many."""
    if not new_addresses:
        return 0
    membership_events.apply_deferred(c, new_addresses)
    return sum(
        c.execute(
            update(outbox)
            .where(outbox.c.person == person, in_state(State.HELD), outbox.c.email.is_(None))
            .values(state=State.READY, email=email, problem=None, detail="", due=now)
        ).rowcount
        for person, email in new_addresses.items()
    )


class _Batch:
    """The pages of one transaction. Rows are inserted last, because later pages change them."""

    def __init__(self, c: Connection, pages: Sequence[Page], cache: PersonCache) -> None:
        self._c = c
        self._rows: list[Row] = []
        self._observations: list[tuple[Observation, Millis]] = []
        self._reads: dict[tuple[LaneId, int, int], tuple[dict[int, Millis], set[int]]] = {}
        self._known = _known_digests(
            c, {_digest(page.lane, record) for page in pages for record in page.records}
        )
        self._resolvers = {
            connection: PersonResolver(
                c,
                connection,
                [r for page in pages if page.lane.connection == connection for r in page.records],
                cache,
            )
            for connection in {page.lane.connection for page in pages}
        }

    @property
    def resolved(self) -> list[PersonRow]:
        return [person for r in self._resolvers.values() for person in r.resolved]

    def add(self, page: Page) -> Appended:
        now = page.received_at
        fresh = [new for r in page.records if (new := self._as_new(page, r))]
        found = self._resolvers[page.lane.connection].resolve([r for r, _ in fresh], now)
        kept, people = _without_erased(fresh, found)
        rows = [
            _row(page, record, digest, person)
            for (record, digest), person in zip(kept, people, strict=True)
        ]
        self._rows += rows
        for (record, _), person, row in zip(kept, people, rows, strict=True):
            if record.observation and person:
                observation = replace(record.observation, person=person.id)
                self._observations.append((observation, now))
            self._request_read(page, record, row)
            self._apply_membership(page, record, row)
        released = self._release(found.new_addresses, now)
        if page.checkpoint:
            facts.save_checkpoint(self._c, page.lane.connection, page.checkpoint, now)
        lanes = self._lanes(page, [record for record, _ in kept], rows)
        if released:
            lanes |= {EVENTS: now, LIST_MEMBERS: now, SEGMENT_MEMBERS: now}
        if found.actions_changed:
            lanes[ACTIONS] = now
        return Appended(
            len(kept),
            len(page.records) - len(fresh),
            held=sum(row["state"] == State.HELD for row in rows),
            released=released,
            forgotten=len(found.erased),
            lanes=lanes,
        )

    def _lanes(
        self, page: Page, records: Sequence[Record], rows: Sequence[Row]
    ) -> dict[LaneKind, Millis]:
        """The lanes for which something is stored, in the order in which they should be woken:
        an event waits for its person's read."""
        now = page.received_at
        lanes: dict[LaneKind, Millis] = {}
        if any(self._asks_for_read(page, *each) for each in zip(records, rows, strict=True)):
            lanes[READS] = now
        if due := [row["due"] for row in rows if row["state"] == State.READY]:
            lanes[EVENTS] = min(due)
        if any(record.membership for record in records):
            lanes |= {LIST_MEMBERS: now, SEGMENT_MEMBERS: now}
        if any(record.observation for record in records):
            lanes[PROFILES] = now
        return lanes

    def write(self) -> None:
        self._follow_merges()
        _INSERT.run_all(self._c, self._rows)
        for (lane, min_interval, priority), (people, refetch) in self._reads.items():
            read_requests.add(
                self._c,
                lane,
                people,
                min_interval=min_interval,
                priority=priority,
                refetch=frozenset(refetch),
            )
        self._observe()

    def _follow_merges(self) -> None:
        """People of the first records may have been merged because of later ones."""
        for resolver in self._resolvers.values():
            for row in self._rows:
                if row["person"]:
                    row["person"] = resolver.survivor_id(row["person"])
            for people, refetch in self._reads.values():
                for person in list(people):
                    survivor = resolver.survivor_id(person)
                    if survivor != person:
                        at = people.pop(person)
                        people[survivor] = max(at, people.get(survivor, at))
                        if person in refetch:
                            refetch.add(survivor)
            self._observations = [
                (replace(o, person=resolver.survivor_id(o.person)), at)
                for o, at in self._observations
            ]

    def _as_new(self, page: Page, record: Record) -> tuple[Record, bytes] | None:
        """The record and its digest; None for a duplicate. A key whose repeat window is over
        counts as new, under an id of its own; the earlier row gives up the digest."""
        digest, now = _digest(page.lane, record), page.received_at
        before = self._known.get(digest)
        if before is not None:
            if record.repeat_window is None or now - before <= record.repeat_window:
                return None
            self._retire(digest)
            record = record.with_new_id(now)
        self._known[digest] = now
        return record, digest

    def _retire(self, digest: bytes) -> None:
        retired = secrets.token_bytes(16)
        self._c.execute(update(outbox).where(outbox.c.digest == digest).values(digest=retired))
        for row in self._rows:
            if row["digest"] == digest:
                row["digest"] = retired

    def _request_read(self, page: Page, record: Record, row: Row) -> None:
        """Have the person read, and let the event wait a little for the answer. One without an
        address is read where the platform can be asked by id, because that may bring the
        address."""
        if page.read_lane is not None and self._asks_for_read(page, record, row):
            key = (page.read_lane, page.min_read_interval, int(page.backfill))
            people, refetch = self._reads.setdefault(key, ({}, set()))
            people[row["person"]] = page.received_at
            row["due"] += page.attach_wait
            if record.refetch:
                refetch.add(row["person"])

    @staticmethod
    def _asks_for_read(page: Page, record: Record, row: Row) -> bool:
        if page.read_lane is None or not row["person"]:
            return False
        return record.refresh if row["email"] else page.by_id

    def _apply_membership(self, page: Page, record: Record, row: Row) -> None:
        """A join or leave that the platform reported, now or once the address is known."""
        if record.membership is None:
            return
        connection, at = page.lane.connection, page.received_at
        if row["email"]:
            audience, joined = record.membership
            member = Member(record.person, row["email"].strip().lower())
            membership_events.apply(self._c, connection, audience, member, joined, at)
        elif row["person"]:
            membership_events.defer(
                self._c, connection, row["person"], record.person, record.membership, at
            )

    def _release(self, new_addresses: Mapping[int, str], now: Millis) -> int:
        """Give the records that wait for these people their address, stored or not; how many."""
        released = release_held(self._c, new_addresses, now)
        if new_addresses:
            self._follow_merges()
        for row in self._rows:
            email = new_addresses.get(row["person"] or 0)
            if email and row["state"] == State.HELD and not row["email"]:
                row.update(state=State.READY, email=email, problem=None, due=now)
                released += 1
        return released

    def _observe(self) -> None:
        """What the events themselves say of people's fields."""
        if self._observations:
            now = max(at for _, at in self._observations)
            profile_observations.observe(self._c, [o for o, _ in self._observations], now=now)


_COLUMNS = (
    "lane",
    "digest",
    "unique_id",
    "name",
    "occurred_at",
    "received_at",
    "via",
    "suppressed",
    "priority",
    "person",
    "email",
    "data",
    "state",
    "due",
    "problem",
)
_INSERT = Prepared(insert(outbox).values({name: param(name) for name in _COLUMNS}))
_DIGESTS = Prepared(
    select(outbox.c.digest, outbox.c.received_at).where(
        outbox.c.digest.in_(param("digests", expanding=True))
    ),
    many="digests",
)


def _digest(lane: Lane, record: Record) -> bytes:
    """16 bytes that stand for the record's key within its connection."""
    key = f"{lane.connection}\0{lane.kind}\0{record.key}"
    return blake2b(key.encode(), digest_size=16).digest()


def _known_digests(c: Connection, digests: set[bytes]) -> dict[bytes, Millis]:
    """Digest → when the stored record was received."""
    return {bytes(digest): at for digest, at in _DIGESTS.rows(c, digests=list(digests))}


def _without_erased(
    fresh: list[tuple[Record, bytes]], found: ResolvedPeople
) -> tuple[list[tuple[Record, bytes]], list[PersonRow | None]]:
    """Records of erased people are not stored."""
    if not found.erased:
        return fresh, found.people
    kept = [place for place in range(len(fresh)) if place not in found.erased]
    return [fresh[place] for place in kept], [found.people[place] for place in kept]


def _row(page: Page, record: Record, digest: bytes, person: PersonRow | None) -> Row:
    email = record.email or (person.email if person else None)
    state, problem = (State.READY, None) if email else (State.HELD, Problem.NO_IDENTITY.value)
    return {
        "lane": page.lane.id,
        "digest": digest,
        "unique_id": record.unique_id,
        "name": record.name,
        "occurred_at": record.occurred_at,
        "received_at": page.received_at,
        "via": page.via,
        "suppressed": page.suppressed,
        "priority": int(page.backfill),
        "person": person.id if person else None,
        "email": email,
        "data": record.data,
        "state": state,
        "due": page.received_at,
        "problem": problem,
    }
