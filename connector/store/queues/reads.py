"""The queue of reads: people to read again at their platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson
from sqlalchemy import ColumnElement, Connection, exists, literal, or_, select, update

from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.outcomes import Ambiguous, Gone, Observed, Outcome, Retry
from connector.domain.records import Checkpoint, Claim, Entry, State
from connector.ports import FreshView, ListedPerson, RetryPolicy, Settled
from connector.store.admin import facts
from connector.store.database import Database
from connector.store.people import bulk_observations, identifiers, merging, observed_people
from connector.store.people import people as people_rows
from connector.store.pieces import Pieces
from connector.store.prepared import Prepared, param, prepared_update
from connector.store.queues import profile_observations, queue, read_requests, read_rows
from connector.store.queues.receipts import is_joining_list
from connector.store.tables import in_state, outbox, profiles, reads, reads_queue

_FEW = 20
"""People whose views are loaded at once."""


class SqlReads(queue.SqlQueue):
    """connector.ports.Reads."""

    most_rows = bulk_observations.MOST_OBSERVED

    repeats_what_was_sent = True

    def __init__(self, database: Database) -> None:
        super().__init__(database, reads_queue)
        self._observed = Pieces(database, bulk_observations.MOST_OBSERVED)

    def _claim_entries(
        self, c: Connection, spec: queue.ClaimSpec, before: Sequence[Entry]
    ) -> list[Entry]:
        rows = [read_rows.ReadRow._make(row) for row in _CLAIM.run(c, spec)]
        people = identifiers.rows_by_id(c, {row.person for row in rows})
        return [row.entry(people[row.person], spec.now) for row in rows]

    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> Settled:
        rows = read_rows.lock(c, [outcome.seq for outcome in outcomes], claim.token)
        current = [outcome for outcome in outcomes if outcome.seq in rows]
        failed: list[_Release] = []
        due: list[Millis] = []
        for outcome in current:
            values = read_rows.after_outcome(rows[outcome.seq], outcome, now, policy.horizon)
            prepared_update(reads, "person", tuple(values)).run(c, row=outcome.seq, **values)
            if values["state"] == State.READY:
                due.append(values.get("due", now))
            if not isinstance(outcome, Observed | Gone):
                again = isinstance(outcome, Retry | Ambiguous) and values["state"] == State.READY
                failed.append(_Release(outcome.seq, now, values["due"] if again else _NEVER))
        observed = observed_people.identify(
            c,
            claim.lane.connection,
            [o.observation for o in current if isinstance(o, Observed)],
            now,
        )
        gone = {o.seq: o.on_leave for o in current if isinstance(o, Gone)}
        people_rows.mark_known(c, [o.seq for o in current if isinstance(o, Observed)])
        people_rows.mark_gone(c, list(gone), now)
        if observed:
            profile_observations.observe(c, observed, now=now)
        if gone:
            old = frozenset(person for person in gone if rows[person].priority)
            profile_observations.mark_gone(c, gone, at=now, now=now, backfill=old)
        read = [_Release(o.person, o.at) for o in observed]
        read += [_Release(person, rows[person].sent_at) for person in gone]
        _release_events(c, [*read, *failed], now)
        return Settled(len(current), queue.earliest(due))

    def _recover(self, c: Connection, now: Millis, of: ColumnElement[bool]) -> int:
        return queue.recover(c, reads_queue, now, of)

    def _give_back(self, c: Connection, claim: Claim, now: Millis) -> int:
        return queue.give_back(c, reads_queue, claim)

    async def request(
        self,
        lane: LaneId,
        people: Mapping[int, Millis],
        *,
        min_interval: int = 0,
        backfill: bool = False,
        urgent: bool = False,
    ) -> None:
        def work(c: Connection) -> None:
            merged = merging.survivors(c, list(people))
            known = {merged.get(person, person): at for person, at in people.items()}
            read_requests.add(c, lane, known, min_interval=min_interval, priority=int(backfill))
            if urgent:
                these = reads.c.person.in_(list(known)), in_state(State.READY, reads)
                c.execute(update(reads).where(*these).values(due=0))

        await self._database.write(work)

    async def bulk_observe(
        self,
        lane: Lane,
        listed: Sequence[ListedPerson],
        *,
        now: Millis,
        checkpoint: Checkpoint | None = None,
    ) -> Sequence[int]:
        people: list[int] = []
        for part, is_last in self._observed.parts(listed):
            cursor = checkpoint if is_last else None

            def work(
                c: Connection,
                part: Sequence[ListedPerson] = part,
                cursor: Checkpoint | None = cursor,
            ) -> list[int]:
                if cursor:
                    facts.save_checkpoint(c, lane.connection, cursor, now)
                return bulk_observations.observe_listed(c, lane, part, now=now)

            people += await self._observed.write(work, rows=len(part))
        return people

    async def fresh_views(self, people: Sequence[int]) -> Mapping[int, FreshView]:
        def work(c: Connection) -> dict[int, FreshView]:
            return {
                person: FreshView(orjson.loads(view), at, bool(write_in_flight))
                for person, view, at, write_in_flight in _VIEWS.rows(c, people=people)
            }

        return await self._database.read(work, brief=len(people) <= _FEW)


_CLAIM = queue.ClaimStatement(
    reads_queue, values={"sent_at": param("now")}, returning=read_rows.COLUMNS
)
_same_address = profiles.alias("same_address")
_WRITE_IN_FLIGHT = or_(
    in_state(State.CLAIMED, profiles),
    exists(
        select(literal(1)).where(
            _same_address.c.address == profiles.c.address, in_state(State.CLAIMED, _same_address)
        )
    ),
    is_joining_list(profiles.c.address),
)
"""A write of the person's profile is in flight: of its fields, of an earlier owner of the address,
or the join of a list."""
_VIEWS = Prepared(
    select(reads.c.person, reads.c.view, reads.c.view_at, _WRITE_IN_FLIGHT)
    .join(profiles, profiles.c.person == reads.c.person, isouter=True)
    .where(reads.c.person.in_(param("people", expanding=True)), reads.c.view.is_not(None)),
    many="people",
)


_NEVER = 2**62


class _Release(NamedTuple):
    """Events of a person that need not wait any longer: those received by `received`, whose wait
    ends before `until`, when the read is tried again. Later ones wait for the next read."""

    person: int
    received: int
    until: int = _NEVER


def _release_events(c: Connection, released: Sequence[_Release], now: Millis) -> None:
    """Events that wait for their person's read are due now."""
    _RELEASE.run_all(
        c,
        [
            {"read": each.person, "received": each.received, "until": each.until, "now": now}
            for each in released
        ],
    )


_RELEASE = Prepared(
    update(outbox)
    .where(
        outbox.c.person == param("read"),
        in_state(State.READY),
        outbox.c.due > param("now"),
        outbox.c.due < param("until"),
        outbox.c.received_at <= param("received"),
        outbox.c.attempts == 0,
    )
    .values(due=param("now"))
)
