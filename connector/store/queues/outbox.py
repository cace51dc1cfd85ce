"""The outbox in SQL: append, claim, settle. Guarantees 1, 2, 3, 10 and 12."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, bindparam, case, func, insert, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, LaneId, Millis
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Held,
    Outcome,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.profiles import Observation
from connector.domain.records import Appended, Claim, Entry, Page, Record, State
from connector.ports import Member, RetryPolicy
from connector.store.admin import facts
from connector.store.database import Database
from connector.store.people import people
from connector.store.queues import membership_events, profile_observations, queue, reads
from connector.store.tables import (
    in_state,
    outbox,
    outbox_queue,
)

ENTRY_COLUMNS = (
    outbox.c.seq,
    outbox.c.unique_id,
    outbox.c.name,
    outbox.c.occurred_at,
    outbox.c.received_at,
    outbox.c.email,
    outbox.c.person,
    outbox.c.data,
    outbox.c.attempts,
    outbox.c.delivery_mode,
    outbox.c.mapping,
    outbox.c.priority,
    outbox.c.failing_since,
)


def digest_of(connection: str, kind: str, key: str) -> bytes:
    """16 bytes that stand for a record's identity within its connection."""
    return blake2b(f"{connection}\0{kind}\0{key}".encode(), digest_size=16).digest()


class SqlOutbox(queue.SqlQueue):
    """connector.ports.Outbox on SQLite and PostgreSQL."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, outbox_queue)
        self._person_cache = people.PersonCache()

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        appended, resolved = await self._database.write(
            lambda c: append(c, pages, self._person_cache)
        )
        self._person_cache.remember(resolved)
        return appended

    def _claim_entries(self, c: Connection, spec: queue.ClaimSpec) -> list[Entry]:
        return claim_ready(c, spec)

    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> int:
        return settle(c, claim, outcomes, now, policy.horizon)

    def _recover(self, c: Connection, now: Millis) -> int:
        return queue.recover(c, outbox_queue, now, delivery_mode=DeliveryMode.SINGLE)


# ── append ───────────────────────────────────────────────────────────────────────────────────────


def append(
    c: Connection, pages: Sequence[Page], cache: people.PersonCache
) -> tuple[list[Appended], list[people.PersonRow]]:
    rows: list[dict[str, Any]] = []
    event_observations: list[tuple[Observation, Millis]] = []
    read_requests: _ReadRequests = {}
    wanted = [
        [digest_of(page.lane.connection, page.lane.kind, r.key) for r in page.records]
        for page in pages
    ]
    known = _known_digests(c, {digest for page in wanted for digest in page})
    resolvers = {
        connection: people.PersonResolver(
            c,
            connection,
            [r for page in pages if page.lane.connection == connection for r in page.records],
            cache,
        )
        for connection in {page.lane.connection for page in pages}
    }
    appended: list[Appended] = []
    for page, digests in zip(pages, wanted, strict=True):
        fresh: list[tuple[Record, bytes]] = []
        for record, digest in zip(page.records, digests, strict=True):
            if _is_new(c, known, rows, record, digest, page.received_at):
                again = digest in known
                known[digest] = page.received_at
                fresh.append((record.with_new_id(page.received_at) if again else record, digest))
        found = resolvers[page.lane.connection].resolve(
            [record for record, _ in fresh], page.received_at
        )
        new = len(fresh)
        fresh, found.people = _drop_forgotten(fresh, found)
        page_rows = [
            _row(page, record, digest, person)
            for (record, digest), person in zip(fresh, found.people, strict=True)
        ]
        rows += page_rows
        event_observations += [
            (replace(record.observation, person=person.id), page.received_at)
            for (record, _), person in zip(fresh, found.people, strict=True)
            if record.observation and person
        ]
        if page.read_lane is not None:
            _request_reads(read_requests, page, [record for record, _ in fresh], page_rows)
        _apply_memberships(c, page, [record for record, _ in fresh], page_rows)
        released = release(c, rows, found.new_addresses, page.received_at)
        held = sum(row["state"] == State.HELD for row in page_rows)
        appended.append(
            Appended(
                len(fresh),
                len(page.records) - new,
                held=held,
                released=released,
                forgotten=len(found.forgotten),
            )
        )
        if page.checkpoint:
            facts.save_checkpoint(c, page.lane.connection, page.checkpoint, page.received_at)
    if rows:
        c.execute(_INSERT, rows)
    for (lane, gap, priority), (who, renew) in read_requests.items():
        reads.ask(c, lane, who, gap, priority, frozenset(renew))
    _observe_events(c, event_observations)
    return appended, [known for d in resolvers.values() for known in d.resolved]


def _observe_events(
    c: Connection, event_observations: Sequence[tuple[Observation, Millis]]
) -> None:
    """What the events themselves say of people's fields, one of each person at a time."""
    while event_observations:
        first = {one[0].person: one for one in reversed(event_observations)}
        now = max(at for _, at in first.values())
        seen = [observation for observation, _ in first.values()]
        profile_observations.observe(c, seen, now=now)
        event_observations = [one for one in event_observations if one is not first[one[0].person]]


def _drop_forgotten(
    fresh: list[tuple[Record, bytes]], found: people.ResolvedPeople
) -> tuple[list[tuple[Record, bytes]], list[people.PersonRow | None]]:
    """What is to be stored, and the person each record is about."""
    if not found.forgotten:
        return fresh, found.people
    kept = [place for place in range(len(fresh)) if place not in found.forgotten]
    return [fresh[place] for place in kept], [found.people[place] for place in kept]


_INSERT = insert(outbox)
_DIGEST_QUERY = select(outbox.c.digest, outbox.c.received_at).where(
    outbox.c.digest.in_(bindparam("digests", expanding=True))
)
_ReadRequests = dict[tuple[LaneId, int, int], tuple[dict[int, Millis], set[int]]]


def _known_digests(c: Connection, digests: set[bytes]) -> dict[bytes, Millis]:
    found: dict[bytes, Millis] = {}
    for part in queue.chunks(list(digests)):
        rows = c.execute(_DIGEST_QUERY, {"digests": part})
        found.update((bytes(digest), at) for digest, at in rows)
    return found


def _is_new(
    c: Connection,
    known: dict[bytes, Millis],
    rows: list[dict[str, Any]],
    record: Record,
    digest: bytes,
    now: Millis,
) -> bool:
    """Whether the key is unknown or its repeat window is over; then the old row gives it up."""
    at = known.get(digest)
    if at is None:
        return True
    if record.repeat_window is None or now - at <= record.repeat_window:
        return False
    retired = secrets.token_bytes(16)
    c.execute(update(outbox).where(outbox.c.digest == digest).values(digest=retired))
    for row in rows:
        if row["digest"] == digest:
            row["digest"] = retired
    return True


def _row(
    page: Page, record: Record, digest: bytes, person: people.PersonRow | None
) -> dict[str, Any]:
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
        "priority": int(page.backfill),
        "person": person.id if person else None,
        "email": email,
        "data": record.data,
        "state": state,
        "due": page.received_at,
        "problem": problem,
    }


def _request_reads(
    read_requests: _ReadRequests,
    page: Page,
    records: Sequence[Record],
    rows: Sequence[dict[str, Any]],
) -> None:
    """The person is read again, and the event waits a little for the answer. One without an
    address is read where the platform can be asked by its id, for the read may bring it."""
    assert page.read_lane is not None
    key = (page.read_lane, page.min_read_interval, int(page.backfill))
    for record, row in zip(records, rows, strict=True):
        wanted = record.refresh if row["email"] else page.by_id
        if wanted and row["person"]:
            who, renew = read_requests.setdefault(key, ({}, set()))
            who[row["person"]] = page.received_at
            row["due"] += page.attach_wait
            if record.refetch:
                renew.add(row["person"])


def release(
    c: Connection, rows: list[dict[str, Any]], new_addresses: Mapping[int, str], now: Millis
) -> int:
    """Give the records that wait for these people their address."""
    if not new_addresses:
        return 0
    membership_events.apply_deferred(c, new_addresses)
    released = 0
    for row in rows:
        email = new_addresses.get(row["person"] or 0)
        if email and row["state"] == State.HELD and not row["email"]:
            row.update(state=State.READY, email=email, problem=None, due=now)
            released += 1
    for person, email in new_addresses.items():
        released += c.execute(
            update(outbox)
            .where(
                outbox.c.person == person,
                in_state(State.HELD),
                outbox.c.email.is_(None),
            )
            .values(state=State.READY, email=email, problem=None, detail="", due=now)
        ).rowcount
    return released


def _apply_memberships(
    c: Connection, page: Page, records: Sequence[Record], rows: Sequence[dict[str, Any]]
) -> None:
    """Joins and leaves that the platform sent by itself, now or once the address is known."""
    connection, at = page.lane.connection, page.received_at
    for record, row in zip(records, rows, strict=True):
        if record.membership is None:
            continue
        if row["email"]:
            audience, joined = record.membership
            who = Member(record.person, row["email"].strip().lower())
            membership_events.apply(c, connection, audience, who, joined, at)
        elif row["person"]:
            membership_events.defer(
                c, connection, row["person"], record.person, record.membership, at
            )


# ── claim ────────────────────────────────────────────────────────────────────────────────────────


def claim_ready(c: Connection, spec: queue.ClaimSpec) -> list[Entry]:
    """An ambiguous entry keeps the mapping version it was first sent with."""
    mapping = spec.mapping
    first = case(
        (outbox.c.delivery_mode == DeliveryMode.SINGLE, func.coalesce(outbox.c.mapping, mapping)),
        else_=mapping,
    )
    rows = queue.claim(c, outbox_queue, spec, values={"mapping": first}, returning=ENTRY_COLUMNS)
    return [entry_of(row) for row in rows]


def entry_of(row: Any) -> Entry:
    seq, unique_id, name, occurred, received, email, person, data, tries, mode, mapping, prio, f = (
        row
    )
    return Entry(
        seq=seq,
        unique_id=unique_id,
        name=name,
        occurred_at=occurred,
        received_at=received,
        email=email,
        person=person,
        data=data,
        attempts=tries,
        mode=DeliveryMode(mode),
        mapping=mapping,
        backfill=bool(prio),
        failing_since=f,
    )


# ── settle ───────────────────────────────────────────────────────────────────────────────────────


def settle(
    c: Connection, claim: Claim, outcomes: Sequence[Outcome], now: Millis, horizon: int
) -> int:
    entries = {entry.seq: entry for entry in claim.entries}
    accepted: dict[str, list[int]] = {}
    changed = 0
    for outcome in outcomes:
        if isinstance(outcome, Accepted):
            accepted.setdefault(outcome.request, []).append(outcome.seq)
        else:
            values = _values(outcome, entries[outcome.seq], now, horizon)
            changed += _update_claimed(c, claim, [outcome.seq], values)
    for request, seqs in accepted.items():
        values = queue.settled(State.ACCEPTED, now) | {"request": request}
        for part in queue.chunks(seqs):
            changed += _update_claimed(c, claim, part, values)
    return changed


def _update_claimed(
    c: Connection, claim: Claim, seqs: Sequence[int], values: dict[str, Any]
) -> int:
    return c.execute(
        update(outbox)
        .where(
            outbox.c.seq.in_(seqs),
            outbox.c.claim == claim.token,
            in_state(State.CLAIMED),
        )
        .values(values)
    ).rowcount


def _values(outcome: Outcome, entry: Entry, now: Millis, horizon: int) -> dict[str, Any]:
    match outcome:
        case Skipped():
            return queue.settled(State.SKIPPED, now) | {"detail": outcome.reason}
        case Held():
            problem = outcome.problem.value
            return queue.settled(State.HELD, now) | {"problem": problem, "detail": outcome.detail}
        case Dead():
            return queue.settled(State.DEAD, now) | {
                "problem": outcome.problem.value,
                "detail": outcome.detail,
                "request": outcome.request,
            }
        case Unsent():
            return {
                "state": State.READY,
                "claim": None,
                "attempts": entry.attempts - 1,
                "mapping": entry.mapping if entry.mode is DeliveryMode.SINGLE else None,
            }
        case Retry() | Ambiguous():
            return _retry_later(outcome, entry, now, horizon)
        case _:
            raise AssertionError(f"no outcome of a record: {outcome}")


def _retry_later(
    outcome: Retry | Ambiguous, entry: Entry, now: Millis, horizon: int
) -> dict[str, Any]:
    since = entry.failing_since or now
    mode = DeliveryMode.SINGLE if isinstance(outcome, Ambiguous) else entry.mode
    if now - since >= horizon:
        last = f"last: {outcome.problem} {outcome.detail}".strip()
        return queue.settled(State.DEAD, now) | {
            "problem": Problem.RETRIES_EXHAUSTED.value,
            "detail": last,
            "delivery_mode": mode,
        }
    return {
        "state": State.READY,
        "claim": None,
        "due": now + round(outcome.after * 1000),
        "failing_since": since,
        "problem": outcome.problem.value,
        "detail": outcome.detail,
        "delivery_mode": mode,
        "mapping": entry.mapping if mode is DeliveryMode.SINGLE else None,
    }
