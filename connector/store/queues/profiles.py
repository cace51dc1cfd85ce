"""Profiles as a queue in SQL: claimed one write per person and address at a time, settled, and held
in flight by import jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    exists,
    insert,
    literal,
    select,
    update,
)

from connector.domain import profile_state
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, LaneId, Millis
from connector.domain.outcomes import UNKNOWN_JOB, Accepted, Dead, Outcome
from connector.domain.profiles import ProfileWrite, WriteMode
from connector.domain.records import Claim, Entry, State
from connector.ports import RetryPolicy, Settled
from connector.store import counters
from connector.store.database import Database, on_request
from connector.store.pieces import Pieces
from connector.store.prepared import Prepared, param
from connector.store.queues import profile_merging, profile_rows, profile_unsets, queue
from connector.store.queues.profile_addresses import is_in_flight, transfer_address
from connector.store.queues.profile_changes import (
    after_lost_job,
    after_outcome,
    after_unsent,
    journal_entry,
    ready_or_idle,
)
from connector.store.queues.profile_rows import COLUMNS, ProfileRow, Values
from connector.store.queues.receipts import ReceiptedQueue, is_joining_list
from connector.store.tables import in_state, journal, outbox, profiles, profiles_queue

_EVENT_LEAVES_WITHIN_MS = 2_000
_MOST_AFTER_SHADOW = 1_000
_MOST_RESET = 1_000
"""People that one transaction of `end_shadow` makes ready, and of `reset_confirmed`."""


class SqlProfiles(ReceiptedQueue):
    """connector.ports.Profiles."""

    most_rows = 100
    settles_patiently = True

    def __init__(self, database: Database) -> None:
        super().__init__(database, profiles_queue, profiles.c.since)
        self._reset = Pieces(database, _MOST_RESET)
        self._after_shadow = Pieces(database, _MOST_AFTER_SHADOW)

    async def reset_confirmed(self, lane: LaneId, *, now: Millis) -> int:
        values: Values = {
            "confirmed": "{}",
            "profile_id": None,
            "address_cleanups": None,
            "pending_move": None,
            "state": case(
                (
                    and_(
                        profiles.c.state == State.HELD,
                        profiles.c.problem.is_distinct_from(Problem.MASS_UNSET.value),
                    ),
                    int(State.HELD),
                ),
                else_=int(State.READY),
            ),
            "write_mode": WriteMode.BULK,
            "due": now,
            "claim": None,
            "receipt": None,
        }
        mine = profiles.c.lane == lane

        @on_request
        def look(c: Connection, after: int, rows: int) -> list[int]:
            page = select(profiles.c.person).where(mine, profiles.c.person > after)
            return list(c.execute(page.order_by(profiles.c.person).limit(rows)).scalars())

        @on_request
        def part(c: Connection, people: Sequence[int]) -> int:
            these = mine, profiles.c.person.in_(people)
            return c.execute(update(profiles).where(*these).values(values)).rowcount

        await self._database.write(lambda c: profile_unsets.forget(c, lane))
        return await self._reset.each_found(look, part)

    async def end_shadow(self, lane: LaneId, *, now: Millis) -> int:
        values: Values = {
            "state": State.READY,
            "due": now,
            "since": now,
            "priority": 1,
            "write_mode": WriteMode.BULK,
        }

        def part(c: Connection, after: int, rows: int) -> tuple[int, int | None]:
            skipped = profiles.c.lane == lane, in_state(State.SKIPPED, profiles)
            page = select(profiles.c.person).where(*skipped, profiles.c.person > after)
            found = list(c.execute(page.order_by(profiles.c.person).limit(rows)).scalars())
            c.execute(update(profiles).where(profiles.c.person.in_(found)).values(values))
            return len(found), found[-1] if len(found) == rows else None

        return await self._after_shadow.each(part, 0)

    async def count_outdated(self, lane: LaneId, mapping: str) -> int:
        found = await self._database.read(lambda c: counters.load(c, "mappings", lane))
        return sum(rows for (_, version), rows in found.items() if version != mapping)

    # ── claim and settle ─────────────────────────────────────────────────────────────────────────

    def _claim_entries(
        self, c: Connection, spec: queue.ClaimSpec, before: Sequence[Entry]
    ) -> list[Entry] | None:
        """People with nothing to write but what waits for approval are held on the way."""
        addresses: set[str] = set()
        changed: set[int] = set()
        held = profile_unsets.held_fields(c, spec.lane)
        rows = [ProfileRow._make(row) for row in _CLAIM.run(c, spec)]
        entries = []
        for row in rows:
            if row.person in changed:
                row = profile_rows.lock(c, [row.person], claim=spec.token)[row.person]
            if entry := _claim_write(c, row, spec, addresses, changed, held):
                entries.append(entry)
        return None if held and rows and not entries else entries

    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> Settled:
        sent = {entry.seq: entry.data for entry in claim.entries}
        rows = profile_rows.lock(c, [outcome.seq for outcome in outcomes], claim=claim.token)
        settled = [
            (rows[o.seq], profile_state.write_from_json(sent[o.seq]), o)
            for o in outcomes
            if o.seq in rows
        ]
        return _save_outcomes(c, settled, now, policy.horizon)

    def _recover(self, c: Connection, now: Millis, of: ColumnElement[bool]) -> int:
        """Writes of a dead holder may have been applied, or may still be. They stay in flight
        until Klaviyo runs no job that is not accounted for."""
        return c.execute(
            update(profiles)
            .where(in_state(State.CLAIMED, profiles), profiles.c.receipt.is_(None), of)
            .values(receipt=f"{UNKNOWN_JOB}{now}", since=now)
        ).rowcount

    def _give_back(self, c: Connection, claim: Claim, now: Millis) -> int:
        mine = in_state(State.CLAIMED, profiles), profiles.c.claim == claim.token
        query = select(profiles.c.person).where(*mine)
        rows = profile_rows.lock(c, list(c.execute(query).scalars()), claim=claim.token)
        profile_rows.save(c, [after_unsent(row, now) for row in rows.values()])
        return len(rows)

    # ── receipts ─────────────────────────────────────────────────────────────────────────────────

    def _rows_of_receipt(self, lane: LaneId, receipt: str) -> Select[Any]:
        return (
            select(*COLUMNS)
            .where(
                profiles.c.lane == lane,
                in_state(State.CLAIMED, profiles),
                profiles.c.receipt == receipt,
            )
            .order_by(profiles.c.person)
        )

    def _close(
        self,
        c: Connection,
        rows: Sequence[Any],
        now: Millis,
        failed: Mapping[int, tuple[Problem, str]],
    ) -> None:
        settled = []
        for row in map(ProfileRow._make, rows):
            problem = None if row.position is None else failed.get(row.position)
            outcome: Outcome = (
                Dead(row.person, *problem) if problem else Accepted(row.person, row.request or "")
            )
            settled.append((row, profile_state.write_from_json(row.sent or b""), outcome))
        _save_outcomes(c, settled, now, 0)

    def _requeue_ambiguous(self, c: Connection, rows: Sequence[Any], now: Millis) -> None:
        lost = [ProfileRow._make(row) for row in rows]
        profile_rows.save(c, [after_lost_job(row, now) for row in lost])
        profile_merging.fold_ended(c, lost, now)


_other = profiles.alias("other")
_NOT_EXCLUDED = (
    ~exists(
        select(literal(1)).where(
            _other.c.address == profiles.c.address,
            in_state(State.CLAIMED, _other),
            _other.c.person != profiles.c.person,
        )
    ),
    ~exists(
        select(literal(1)).where(outbox.c.person == profiles.c.person, in_state(State.CLAIMED))
    ),
    ~is_joining_list(profiles.c.address),
)
"""No write to the address, no event of the person and no list join is in flight."""


_NO_EVENT_LEAVES = ~exists(
    select(literal(1)).where(
        outbox.c.person == profiles.c.person,
        in_state(State.READY),
        outbox.c.attempts == 0,
        outbox.c.priority == 0,
        outbox.c.due.between(
            param("now", type_=BigInteger) - _EVENT_LEAVES_WITHIN_MS, param("now")
        ),
        outbox.c.due > outbox.c.received_at,
    )
)
"""No event of the person has just become due after it waited for their read: it goes first, because
it carries the same fields unless a write of the profile is in flight. One that does not go soon
holds nothing up."""
_CLAIM = queue.ClaimStatement(
    profiles_queue,
    values={"receipt": None, "position": None, "sent": None},
    returning=COLUMNS,
    conditions=(
        *_NOT_EXCLUDED,
        _NO_EVENT_LEAVES,
        profiles.c.ambiguous_until <= param("now"),
    ),
)
_JOURNAL_COLUMNS = ("person", "at", "kind", "outcome", "request", "data")
_ADD_TO_JOURNAL = Prepared(insert(journal).values({name: param(name) for name in _JOURNAL_COLUMNS}))


def _claim_write(
    c: Connection,
    row: ProfileRow,
    spec: queue.ClaimSpec,
    addresses: set[str],
    changed: set[int],
    held: frozenset[str],
) -> Entry | None:
    """The entry of a claimed row, or None after the row was released. `addresses` are those of the
    claim so far, to which this one's are added, as are to `changed` the other people whose rows are
    changed; the removal of `held` fields is left out."""
    profile = row.profile
    write = profile_state.next_write(profile)
    if write is None:
        _release(c, row, spec, state=State.ACCEPTED)
        return None
    whole, write = write, profile_unsets.without(write, held)
    if not (write.sets or write.unsets or write.pending_move):
        profile_rows.save(c, [profile_unsets.hold(row.person, whole, held, spec.now)])
        return None
    address = profile_state.write_address(profile)
    is_other = address != profile.address
    both = {address, profile.address} - {""}
    if is_other and (owners := transfer_address(c, profile, spec.lane, spec.now)):
        changed |= owners
        left, _ = profile_state.abandon_address(profile)
        profile_rows.save(c, [ready_or_idle(row, left, spec.now)])
        return None
    if addresses & both or (is_other and is_in_flight(c, address, exclude=row.person)):
        _release(c, row, spec)
        return None
    if spec.mode is DeliveryMode.BATCH and profile_state.needs_single_call(whole):
        _release(c, row, spec, write_mode=WriteMode.SINGLE)
        return None
    addresses |= both
    write = replace(write, lost_jobs=row.lost_jobs)
    if is_other:
        profile_rows.save(c, [{"person": row.person, "address": bytes.fromhex(address)}])
    return _entry(row, write, spec.mode)


def _release(c: Connection, row: ProfileRow, spec: queue.ClaimSpec, **values: Any) -> None:
    """Give a claimed row back; the claim does not count as an attempt."""
    c.execute(
        update(profiles)
        .where(profiles.c.person == row.person, profiles.c.claim == spec.token)
        .values({"state": State.READY, "claim": None, "attempts": row.attempts - 1, **values})
    )


def _entry(row: ProfileRow, write: ProfileWrite, mode: DeliveryMode) -> Entry:
    return Entry(
        seq=row.person,
        unique_id=f"profile:{row.person}",
        name="profile",
        occurred_at=row.since,
        received_at=row.since,
        email=write.identity.get("email"),
        person=row.person,
        data=profile_state.write_to_json(write),
        attempts=row.attempts,
        mode=mode,
        mapping=row.mapping,
        backfill=bool(row.priority),
        failing_since=row.failing_since,
    )


def _save_outcomes(
    c: Connection,
    settled: Sequence[tuple[ProfileRow, ProfileWrite, Outcome]],
    now: Millis,
    horizon: int,
) -> Settled:
    """Write outcomes to rows and journal."""
    changes = [after_outcome(row, write, outcome, now, horizon) for row, write, outcome in settled]
    entries = [
        entry for _, write, outcome in settled if (entry := journal_entry(outcome, write, now))
    ]
    profile_rows.save(c, changes)
    profile_merging.fold_ended(c, [row for row, _, _ in settled], now)
    _ADD_TO_JOURNAL.run_all(c, entries)
    due = [change.get("due", now) for change in changes if change.get("state") == State.READY]
    # The profile that a merged one became a part of may have more to send now.
    due += [now for row, _, _ in settled if row.merged_into is not None]
    return Settled(len(changes), queue.earliest(due))
