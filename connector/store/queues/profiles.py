"""Profiles as states in SQL: observed, claimed one write per person at a time, confirmed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, case, exists, func, insert, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from connector.domain import profile_state
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, LaneId, Millis
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Held,
    Outcome,
    Pending,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.profile_state import AddressCleanup, Profile
from connector.domain.profiles import Observation, OnLeave, ProfileWrite, WriteMode
from connector.domain.records import Claim, Entry, State
from connector.ports import ReadyCounts, RetryPolicy
from connector.store.database import Database
from connector.store.people import people
from connector.store.queues import queue
from connector.store.tables import in_state, journal, outbox, profiles, profiles_queue

_PROFILE_COLUMNS = (
    profiles.c.person,
    profiles.c.identity,
    profiles.c.wanted,
    profiles.c.confirmed,
    profiles.c.address_cleanups,
    profiles.c.pending_move,
    profiles.c.profile_id,
    profiles.c.mapping,
)
_ROW = (
    *_PROFILE_COLUMNS,
    profiles.c.state,
    profiles.c.due,
    profiles.c.attempts,
    profiles.c.failing_since,
    profiles.c.since,
    profiles.c.problem,
    profiles.c.address,
    profiles.c.lane,
    profiles.c.priority,
)
_RECHECK_AFTER = 1_000
_AMBIGUOUS_WAIT = 30_000
"""ms: a request that timed out here may still be applied there for so long."""


class SqlProfiles(queue.ReceiptedQueue):
    """connector.ports.Profiles."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, profiles_queue, profiles.c.since)

    async def reset_confirmed(self, lane: LaneId, *, now: Millis) -> int:
        """Another account knows nothing of what the one before was told."""

        def work(c: Connection) -> int:
            empty = {
                "confirmed": "{}",
                "profile_id": None,
                "address_cleanups": None,
                "pending_move": None,
            }
            held = (profiles.c.state == State.HELD, int(State.HELD))
            return c.execute(
                update(profiles)
                .where(profiles.c.lane == lane)
                .values(
                    **empty,
                    state=case(held, else_=int(State.READY)),
                    write_mode=WriteMode.BULK,
                    due=now,
                    claim=None,
                    receipt=None,
                )
            ).rowcount

        return await self._database.write(work)

    async def end_shadow(self, lane: LaneId, *, now: Millis) -> int:
        """A page at a time, so that a million people do not hold up the writer."""
        total, after = 0, 0
        while True:

            def part(c: Connection, after: int = after) -> list[int]:
                skipped = profiles.c.lane == lane, in_state(State.SKIPPED, profiles)
                page = select(profiles.c.person).where(*skipped, profiles.c.person > after)
                found = list(c.execute(page.order_by(profiles.c.person).limit(5_000)).scalars())
                again = {
                    "state": State.READY,
                    "due": now,
                    "since": now,
                    "priority": 1,
                    "write_mode": WriteMode.BULK,
                }
                c.execute(update(profiles).where(profiles.c.person.in_(found)).values(again))
                return found

            found = await self._database.write(part)
            total += len(found)
            if not found:
                return total
            after = found[-1]

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        """What is ready may still be held back, by an event of the person in flight or by a write
        to his address on another lane: nobody says when that ends, so look again soon."""
        found = await super().ready(lane, now=now, limit=limit)
        if not found.any:
            return found
        again = Millis(now + _RECHECK_AFTER)
        due = again if found.next_due is None else min(again, found.next_due)
        return replace(found, next_due=due)

    def _claim_entries(self, c: Connection, spec: queue.ClaimSpec) -> list[Entry]:
        lane, token, now, mode = spec.lane, spec.token, spec.now, spec.mode
        other = profiles.alias("other")
        rows = queue.claim(
            c,
            profiles_queue,
            spec,
            values={"receipt": None, "position": None, "sent": None},
            returning=_ROW,
            conditions=(
                ~exists(
                    select(literal(1)).where(
                        other.c.address == profiles.c.address,
                        other.c.state == State.CLAIMED,
                        other.c.person != profiles.c.person,
                    )
                ),
                ~exists(
                    select(literal(1)).where(
                        outbox.c.person == profiles.c.person, in_state(State.CLAIMED)
                    )
                ),
                ~queue.is_joining_list(profiles.c.address),
            ),
        )
        entries: list[Entry] = []
        addresses: set[str] = set()
        for row in rows:
            profile = profile_of(row)
            write = profile_state.next_write(profile)
            if write is None:
                _unclaim(c, row, token, state=State.ACCEPTED)
                continue
            address = profile_state.write_address(profile)
            elsewhere = address != profile.address
            both = {address, profile.address} - {""}
            if elsewhere and _transfer_address(c, profile, lane, now):
                left, _ = profile_state.abandon_address(profile)
                _save(c, [self._ready_or_idle(left, row, now)])
            elif addresses & both or (elsewhere and _in_flight(c, address, row.person)):
                _unclaim(c, row, token)
            elif mode is DeliveryMode.BATCH and profile_state.needs_single_call(write):
                _unclaim(c, row, token, write_mode=WriteMode.SINGLE)
            else:
                addresses |= both
                if elsewhere:
                    _save(c, [{"person": row.person, "address": bytes.fromhex(address)}])
                entries.append(_entry(row, write, mode))
        return entries

    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> int:
        writes = {e.seq: profile_state.write_from_json(e.data) for e in claim.entries}
        rows = _rows(c, [outcome.seq for outcome in outcomes], claim=claim.token)
        changes: list[dict[str, Any]] = []
        journal_entries: list[dict[str, Any]] = []
        for outcome in outcomes:
            row = rows.get(outcome.seq)
            if row is None:
                continue
            write = writes[outcome.seq]
            changes.append(self._after_outcome(row, write, outcome, now, policy.horizon))
            if journal_entry := _journal_entry(outcome, write, now):
                journal_entries.append(journal_entry)
        _save(c, changes)
        if journal_entries:
            c.execute(insert(journal), journal_entries)
        return len(changes)

    def _after_outcome(
        self, row: Any, write: ProfileWrite, outcome: Outcome, now: Millis, horizon: int
    ) -> dict[str, Any]:
        """The row after an outcome. What was observed while it was in flight is ready at once."""
        profile = profile_of(row)
        match outcome:
            case Accepted():
                after = profile_state.apply_accepted(profile, write, now, profile_id=outcome.ref)
                return self._ready_or_idle(after, row, now) | {"request": outcome.request}
            case Pending():
                return {
                    "state": State.CLAIMED,
                    "receipt": outcome.receipt,
                    "position": outcome.position,
                    "sent": profile_state.write_to_json(write),
                    "request": outcome.request,
                    "person": row.person,
                    "since": now,
                }
            case Retry() | Ambiguous():
                return self._retry_later(profile, row, outcome, now, horizon)
            case Unsent():
                again = self._ready_or_idle(profile, row, now, due=row.due)
                return again | {"attempts": row.attempts - 1}
            case Dead() | Held():
                if self._has_other_changes(profile, write, now):
                    return self._ready_or_idle(profile, row, now)
                state = State.DEAD if isinstance(outcome, Dead) else State.HELD
                return _idle_columns(profile) | {
                    "state": state,
                    "settled_at": now,
                    "problem": outcome.problem.value,
                    "detail": outcome.detail,
                }
            case Skipped():
                # Shadow mode: nothing was told, and nothing waits to be before it ends.
                idle = {"state": State.SKIPPED, "settled_at": now, "request": None}
                return _idle_columns(profile) | idle
            case _:
                raise AssertionError(outcome)

    def _retry_later(
        self, profile: Profile, row: Any, outcome: Retry | Ambiguous, now: Millis, horizon: int
    ) -> dict[str, Any]:
        failing_since = row.failing_since or now
        after = round(outcome.after * 1000)
        if isinstance(outcome, Ambiguous):
            profile = profile_state.apply_ambiguous(profile, now)
            after = max(after, _AMBIGUOUS_WAIT)
        if now - failing_since >= horizon:
            if row.problem == Problem.SHARED_ADDRESS.value:
                return self._ready_or_idle(profile, row, now)
            return _idle_columns(profile) | {
                "state": State.DEAD,
                "settled_at": now,
                "problem": Problem.RETRIES_EXHAUSTED.value,
                "detail": f"last: {outcome.problem} {outcome.detail}".strip(),
            }
        again = self._ready_or_idle(profile, row, now, due=Millis(now + after))
        if again["state"] == State.HELD:
            return again
        return again | {
            "attempts": row.attempts,
            "failing_since": failing_since,
            "problem": outcome.problem.value,
            "detail": outcome.detail,
        }

    def _has_other_changes(self, profile: Profile, write: ProfileWrite, now: Millis) -> bool:
        """Whether something else than what was refused is to be told: it came meanwhile."""
        following = profile_state.next_write(profile)
        return following is not None and (
            (following.identity, following.sets, following.is_cleanup)
            != (write.identity, write.sets, write.is_cleanup)
            or set(following.unsets) != set(write.unsets)
        )

    def _ready_or_idle(
        self, profile: Profile, row: Any, now: Millis, *, due: Millis | None = None
    ) -> dict[str, Any]:
        """Ready again where something is left to tell, else at rest. One whose address became
        another person's while his write was in flight tells nothing more."""
        if row.problem == Problem.SHARED_ADDRESS.value:
            return _idle_columns(profile) | {
                "state": State.HELD,
                "problem": row.problem,
                "confirmed": "{}",
                "settled_at": now,
            }
        write = profile_state.next_write(profile)
        return _idle_columns(profile) | {
            "state": State.READY if write else State.ACCEPTED,
            "write_mode": _write_mode(write),
            "due": due if due is not None else now,
            "settled_at": now,
            "since": row.since,
        }

    def _recover(self, c: Connection, now: Millis) -> int:
        """What was in flight when its holder went may have been applied, or may yet be: it stays
        in flight until the far end's jobs are known to be accounted for."""
        return c.execute(
            update(profiles)
            .where(in_state(State.CLAIMED, profiles), profiles.c.receipt.is_(None))
            .values(receipt="", since=now)
        ).rowcount

    # ── receipts ─────────────────────────────────────────────────────────────────────────────────

    def _rows_of_receipt(self, lane: LaneId, receipt: str) -> Any:
        return (
            select(*_ROW, profiles.c.position, profiles.c.sent, profiles.c.request)
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
        changes, journal_entries = [], []
        for row in rows:
            write = profile_state.write_from_json(row.sent)
            fault = failed.get(row.position)
            outcome: Outcome = (
                Dead(row.person, *fault) if fault else Accepted(row.person, row.request or "")
            )
            changes.append(self._after_outcome(row, write, outcome, now, 0))
            if journal_entry := _journal_entry(outcome, write, now):
                journal_entries.append(journal_entry)
        _save(c, changes)
        c.execute(insert(journal), journal_entries)

    def _requeue_ambiguous(self, c: Connection, rows: Sequence[Any], now: Millis) -> None:
        """All is told again, singly, so that one bad profile cannot take a whole job along for
        ever, and with an end in sight."""
        changes = []
        for row in rows:
            after = self._ready_or_idle(
                profile_state.apply_ambiguous(profile_of(row), now), row, now
            )
            since = row.failing_since or now
            changes.append(_IDLE | after | {"write_mode": WriteMode.SINGLE, "failing_since": since})
        _save(c, changes)

    # ── looking ──────────────────────────────────────────────────────────────────────────────────

    async def count_outdated(self, lane: LaneId, mapping: str) -> int:
        """How many people were rendered with another mapping version."""
        query = select(func.count()).where(profiles.c.lane == lane, profiles.c.mapping != mapping)
        return await self._database.read(lambda c: c.execute(query).scalar_one())


# ── observing: called by the reads in their own transaction ──────────────────────────────────────


def observe(c: Connection, seen: Sequence[Observation], *, now: Millis) -> None:
    rows = _rows(c, [o.person for o in seen])
    _create_missing(c, [o for o in seen if o.person not in rows], now)
    rows |= _rows(c, [o.person for o in seen if o.person not in rows])
    changes = []
    for observed in seen:
        row = rows[observed.person]
        known = profile_of(row)
        o = profile_state.without_identity_if_known(known, observed, held=row.state == State.HELD)
        profile = profile_state.observe(known, o)
        profile = profile_state.expire_confirmed(profile, now=now, after=o.reconfirm_after)
        if o.address and (left := _hold_previous_owners(c, o)):
            profile = profile_state.adopt_fields(profile_state.apply_ambiguous(profile, now), left)
        changes.append(_observed(row, profile, o, now))
    _save(c, changes)
    people.record_addresses(c, seen, now)


def leave(
    c: Connection,
    people: Mapping[int, OnLeave],
    *,
    at: Millis,
    now: Millis,
    backfill: frozenset[int] = frozenset(),
) -> None:
    """These people are no longer known to their platform; those of `backfill` were found so by
    one."""
    changes = []
    gone = [person for person, rule in people.items() if rule == "unset"]
    for row in _rows(c, gone).values():
        if row.state == State.HELD and row.problem == Problem.SHARED_ADDRESS.value:
            continue
        profile = profile_state.mark_gone(profile_of(row), at, on_leave=people[row.person])
        old = row.person in backfill
        changes.append(_requeue(row, profile, now, since=now, backfill=old))
    _save(c, changes)


def invalidate_confirmed(c: Connection, people: Sequence[int], now: Millis) -> None:
    """What was confirmed of these people is to be told again with what is observed next."""
    rows = _rows(c, people).values()
    _save(c, [_columns(profile_state.apply_ambiguous(profile_of(row), now)) for row in rows])


def resend(c: Connection, people: Sequence[int], now: Millis) -> None:
    """All that is wanted of these people is told again now, as by a backfill."""
    changes = []
    for row in _rows(c, people).values():
        if row.state in (State.READY, State.CLAIMED, State.ACCEPTED, State.SKIPPED):
            profile = profile_state.apply_ambiguous(profile_of(row), now)
            changes.append(_requeue(row, profile, now, since=now, backfill=True))
    _save(c, changes)


def load_profiles(c: Connection, people: Sequence[int]) -> dict[int, Profile]:
    """These people as they stand, for who changes nothing."""
    found: dict[int, Profile] = {}
    for part in queue.chunks(people):
        query = select(*_ROW).where(profiles.c.person.in_(part))
        found.update((row.person, profile_of(row)) for row in c.execute(query))
    return found


def _observed(row: Any, profile: Profile, o: Observation, now: Millis) -> dict[str, Any]:
    if o.partial and row.state == State.HELD:
        return _columns(profile)
    problem = o.problem or (None if profile.identity else Problem.NO_IDENTITY)
    if problem:
        held = {"state": State.HELD, "problem": problem.value, "settled_at": now}
        return _columns(profile) | (held if row.state != State.CLAIMED else {})
    changes = _requeue(row, profile, now, since=o.since or now, backfill=o.backfill)
    if row.state == State.CLAIMED and o.address:
        changes["problem"] = None  # he has an address of his own again, if it was that
        if row.address is None:
            changes["address"] = o.address
    return changes


def _requeue(
    row: Any,
    profile: Profile,
    now: Millis,
    *,
    since: Millis,
    backfill: bool = False,
) -> dict[str, Any]:
    """The row with something to tell, if there is something. What waits for live traffic keeps
    its turn when a backfill comes by."""
    busy = row.state in (State.READY, State.CLAIMED)
    priority = row.priority if backfill and busy else int(backfill)
    if row.state == State.CLAIMED:
        return _columns(profile) | {"priority": priority}
    write = profile_state.next_write(profile)
    if write is None:
        return _idle_columns(profile) | {"state": State.ACCEPTED, "problem": None}
    waits = row.state == State.READY
    return _idle_columns(profile) | {
        "state": State.READY,
        "write_mode": _write_mode(write),
        "priority": priority,
        "due": row.due if waits else now,
        "since": row.since if waits else since,
        **({} if waits else {"attempts": 0, "failing_since": None, "problem": None}),
    }


def _hold_previous_owners(c: Connection, o: Observation) -> set[str]:
    """Others who had this address are held, for the latest active has it: the fields of theirs
    that may stand there."""
    left: set[str] = set()
    for row in _others_at_address(c, o.address, o.lane, o.person):
        left |= profile_state.fields_at_address(profile_of(row))
        c.execute(
            update(profiles)
            .where(profiles.c.person == row.person)
            .values(
                state=case(
                    (profiles.c.state == State.CLAIMED, int(State.CLAIMED)), else_=int(State.HELD)
                ),
                problem=Problem.SHARED_ADDRESS.value,
                confirmed="{}",
            )
        )
    return left


def _others_at_address(
    c: Connection, address: bytes | None, lane: LaneId, exclude: int
) -> list[Any]:
    """Rows of others who have this address."""
    query = select(*_ROW).where(
        profiles.c.address == address,
        profiles.c.person != exclude,
        profiles.c.lane == lane,
        profiles.c.problem.is_distinct_from(Problem.SHARED_ADDRESS.value),
    )
    return [row for row in c.execute(query) if profile_of(row).address == (address or b"").hex()]


def _in_flight(c: Connection, address: str, exclude: int) -> bool:
    """Whether another's write to this address is in flight, or a move to it. Asked only for those
    who leave an address, who are few."""
    query = select(profiles.c.address, profiles.c.pending_move).where(
        in_state(State.CLAIMED, profiles),
        profiles.c.person != exclude,
        (profiles.c.address == bytes.fromhex(address)) | profiles.c.pending_move.is_not(None),
    )
    return any(
        found == bytes.fromhex(address) or orjson.loads(moved)[profile_state.TO] == address
        for found, moved in c.execute(query)
    )


def _transfer_address(c: Connection, profile: Profile, lane: LaneId, now: Millis) -> bool:
    """Where the address that a person left is another's by now, it is the other's write that puts
    the fields right: a farewell would take away what is his, and a move his profile."""
    address = bytes.fromhex(profile_state.write_address(profile))
    new_owners = _others_at_address(c, address, lane, profile.person) if address else []
    if new_owners:
        _, names = profile_state.abandon_address(profile)
        changes = [
            _requeue(h, profile_state.adopt_fields(profile_of(h), names), now, since=now)
            for h in new_owners
        ]
        _save(c, changes)
    return bool(new_owners)


def _create_missing(c: Connection, seen: Sequence[Observation], now: Millis) -> None:
    if not seen:
        return
    dialect = postgresql if c.dialect.name == "postgresql" else sqlite
    empty = {"identity": "{}", "wanted": "{}", "confirmed": "{}", "state": State.ACCEPTED}
    c.execute(
        dialect.insert(profiles).on_conflict_do_nothing(index_elements=["person"]),
        [empty | {"person": o.person, "lane": o.lane, "due": now, "since": now} for o in seen],
    )


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


def profile_of(row: Any) -> Profile:
    profile = Profile(
        person=row.person,
        identity=orjson.loads(row.identity),
        wanted=_pairs(row.wanted),
        confirmed=_pairs(row.confirmed),
        profile_id=row.profile_id,
        address_cleanups=tuple(
            AddressCleanup(**f | {"names": tuple(f["names"])})
            for f in orjson.loads(row.address_cleanups or "[]")
        ),
        pending_move=orjson.loads(row.pending_move) if row.pending_move else None,
        mapping=row.mapping,
        address=row.address.hex() if row.address else "",
    )
    return replace(profile, address=profile_state.current_address(profile))


def _pairs(text: str) -> dict[str, Any]:
    return {name: (value, at) for name, (value, at) in orjson.loads(text).items()}


def _columns(profile: Profile) -> dict[str, Any]:
    """Every column that a settled or observed row may change, so that one statement serves all."""
    return {
        "person": profile.person,
        "identity": orjson.dumps(profile.identity).decode(),
        "wanted": orjson.dumps(profile.wanted).decode(),
        "confirmed": orjson.dumps(profile.confirmed).decode(),
        "address_cleanups": orjson.dumps([asdict(f) for f in profile.address_cleanups]).decode()
        if profile.address_cleanups
        else None,
        "pending_move": orjson.dumps(profile.pending_move).decode()
        if profile.pending_move
        else None,
        "profile_id": profile.profile_id,
        "mapping": profile.mapping,
    }


def _idle_columns(profile: Profile) -> dict[str, Any]:
    """`_columns` of a row without a write in flight, whose address is the person's own again."""
    own = bytes.fromhex(profile.address) if profile.address else None
    return _columns(profile) | {"address": own}


def _rows(c: Connection, people: Sequence[int], claim: int | None = None) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for part in queue.chunks(people):
        query = select(*_ROW).where(profiles.c.person.in_(part))
        if claim is not None:
            query = query.where(in_state(State.CLAIMED, profiles), profiles.c.claim == claim)
        # What is read here is written back whole: nobody may change it in between.
        locked = query.order_by(profiles.c.person).with_for_update()
        found.update((row.person, row) for row in c.execute(locked))
    return found


def _save(c: Connection, changes: Iterable[dict[str, Any]]) -> None:
    """Rows of like shape are written together."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for change in changes:
        if "settled_at" in change and change.get("state") != State.CLAIMED:
            change = _IDLE | change
        alike.setdefault(tuple(sorted(change)), []).append(change)
    for rows in alike.values():
        c.execute(
            update(profiles).where(profiles.c.person == bindparam("key")),
            [{"key": row.pop("person"), **row} for row in rows],
        )


_IDLE: dict[str, Any] = {
    "claim": None,
    "receipt": None,
    "position": None,
    "sent": None,
    "problem": None,
    "detail": "",
    "attempts": 0,
    "failing_since": None,
}


def _unclaim(c: Connection, row: Any, token: int, **values: Any) -> None:
    c.execute(
        update(profiles)
        .where(profiles.c.person == row.person, profiles.c.claim == token)
        .values({"state": State.READY, "claim": None, "attempts": row.attempts - 1, **values})
    )


def _write_mode(write: ProfileWrite | None) -> WriteMode:
    single = write is not None and profile_state.needs_single_call(write)
    return WriteMode.SINGLE if single else WriteMode.BULK


def _entry(row: Any, write: ProfileWrite, mode: DeliveryMode) -> Entry:
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


def _journal_entry(outcome: Outcome, write: ProfileWrite, now: Millis) -> dict[str, Any] | None:
    if not isinstance(outcome, Accepted | Pending | Dead | Ambiguous):
        return None
    labels = {Accepted: "accepted", Pending: "queued", Dead: "dead", Ambiguous: "in doubt"}
    return {
        "person": outcome.seq,
        "at": now,
        "kind": "write",
        "outcome": labels[type(outcome)],
        "request": outcome.request,
        "data": profile_state.write_to_json(write),
    }
