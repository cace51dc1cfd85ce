"""A model of the outbox in plain Python, which the SQL store is compared with."""

from __future__ import annotations

import itertools
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import DeliveryMode, Kind, Lane, LaneId, LaneState, Millis, QuotaUsage
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Held,
    Outcome,
    Request,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.records import Appended, Claim, Entry, Page, Record, State
from connector.ports import (
    ANY_DEAD_LETTER,
    Backlog,
    DeadLetter,
    DeadLetterFilter,
    Fence,
    Holder,
    Pruned,
    ReadyCounts,
    RetryPolicy,
    Settled,
    StuckGroup,
)

_STUCK = (State.HELD, State.DEAD)


@dataclass
class Row:
    """A stored record and its state."""

    seq: int
    page: Page
    record: Record
    person: int | None
    email: str | None
    state: State
    due: Millis
    single: bool = False
    attempts: int = 0
    failing_since: Millis | None = None
    claim: int | None = None
    mapping: str | None = None
    problem: str | None = None
    detail: str = ""
    settled_at: Millis | None = None
    request: str | None = None

    def entry(self) -> Entry:
        return Entry(
            seq=self.seq,
            unique_id=self.record.unique_id,
            name=self.record.name,
            occurred_at=self.record.occurred_at,
            received_at=self.page.received_at,
            email=self.email,
            person=self.person,
            data=self.record.data,
            attempts=self.attempts,
            mode=DeliveryMode(self.single),
            mapping=self.mapping,
            backfill=self.page.backfill,
            failing_since=self.failing_since,
        )

    def set(self, state: State, *, problem: str | None = None, detail: str = "") -> None:
        self.state, self.claim, self.problem, self.detail = state, None, problem, detail


@dataclass
class Person:
    """A person's platform id and address."""

    id: int
    connection: str
    platform_id: str | None
    email: str | None


class OutboxModel:
    """As much of connector.ports.Store as a comparison uses. Every port is this one object."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self._keys: dict[tuple[str, Kind, str], Row] = {}
        self._people: list[Person] = []
        self._lanes: dict[LaneId, tuple[Lane, LaneState]] = {}
        self._checkpoints: dict[tuple[str, str], tuple[str, Millis]] = {}
        self._leases: dict[str, tuple[str, int, Millis]] = {}
        self._spend: dict[tuple[str, str, int], int] = {}
        self._seq = itertools.count(1)
        self._people_ids = itertools.count(1)
        self.outbox = self.dead_letters = self.lanes = self.reports = self
        self.facts = self.leases = self.maintenance = self

    async def aclose(self) -> None: ...

    # ── outbox ───────────────────────────────────────────────────────────────────────────────────

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        return [self._append(page) for page in pages]

    def _append(self, page: Page) -> Appended:
        fresh: list[Row] = []
        released = 0
        for record in page.records:
            key = (page.lane.connection, page.lane.kind, record.key)
            old = self._keys.get(key)
            if old and (
                record.repeat_window is None
                or page.received_at - old.page.received_at <= record.repeat_window
            ):
                continue
            if old:
                record = record.with_new_id(page.received_at)
            person = self._person(page.lane.connection, record)
            email = record.email or (person.email if person else None)
            row = Row(
                seq=next(self._seq),
                page=page,
                record=record,
                person=person.id if person else None,
                email=email,
                state=State.READY if email else State.HELD,
                due=page.received_at,
                problem=None if email else Problem.NO_IDENTITY.value,
            )
            self.rows[row.seq] = self._keys[key] = row
            fresh.append(row)
            released += self._release(person, page.received_at) if email else 0
        if page.checkpoint:
            stream = (page.lane.connection, page.checkpoint.stream)
            self._checkpoints[stream] = (page.checkpoint.cursor, page.received_at)
        held = sum(row.state == State.HELD for row in fresh)
        return Appended(len(fresh), len(page.records) - len(fresh), held=held, released=released)

    def _person(self, connection: str, record: Record) -> Person | None:
        ours = [p for p in self._people if p.connection == connection]
        found: Person | None = None
        if record.person:
            address_only = [
                p
                for p in ours
                if record.email and p.email == record.email and p.platform_id is None
            ]
            found = next((p for p in ours if p.platform_id == record.person), None)
            found = found or (address_only.pop(0) if address_only else None)
            for other in address_only if found else ():
                self._merge(found, other)
        elif record.email:
            found = next((p for p in reversed(ours) if p.email == record.email), None)
        else:
            return None
        if found is None:
            found = Person(next(self._people_ids), connection, record.person, record.email)
            self._people.append(found)
        found.platform_id = record.person or found.platform_id
        found.email = record.email or found.email
        return found

    def _merge(self, person: Person | None, other: Person) -> None:
        for row in self.rows.values():
            if person and row.person == other.id:
                row.person = person.id
        self._people = [p for p in self._people if p is not other]

    def _release(self, person: Person | None, now: Millis) -> int:
        waiting = [
            row
            for row in self.rows.values()
            if person and row.person == person.id and row.state == State.HELD and not row.email
        ]
        for row in waiting:
            row.set(State.READY)
            row.email, row.due = person.email if person else None, now
        return len(waiting)

    def _ready(self, lane: LaneId, single: bool) -> list[Row]:
        return [
            row
            for row in self.rows.values()
            if row.page.lane.id == lane and row.state == State.READY and row.single == single
        ]

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        waiting = self._ready(lane, False) + self._ready(lane, True)
        later = [row.due for row in waiting if row.due > now]
        counts = Counter((row.single, row.page.backfill) for row in waiting if row.due <= now)
        return ReadyCounts(
            min(limit, counts[False, False]),
            min(limit, counts[True, False]),
            min(later) if later else None,
            min(limit, counts[False, True]),
            min(limit, counts[True, True]),
        )

    async def claim(
        self,
        lane: Lane,
        fence: Fence,
        *,
        now: Millis,
        limit: int,
        mode: DeliveryMode,
        mapping: str,
        usage: Sequence[QuotaUsage] = (),
        backfill: bool | None = None,
        token: int | None = None,
    ) -> Claim | None:
        self._require(fence, now)
        await self.save_usage(usage)
        due = [
            row
            for row in self._ready(lane.id, bool(mode))
            if row.due <= now and backfill in (None, row.page.backfill)
        ]
        due.sort(key=lambda row: (row.page.backfill, row.due, row.seq))
        token = secrets.randbits(62) if token is None else token
        for row in due[:limit]:
            row.state, row.claim = State.CLAIMED, token
            row.attempts += 1
            row.mapping = (row.mapping or mapping) if row.single else mapping
        taken = sorted(due[:limit], key=lambda row: (row.page.backfill, row.seq))
        return Claim(token, lane, [row.entry() for row in taken]) if taken else None

    async def settle(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        now: Millis,
        policy: RetryPolicy,
        requests: Sequence[Request] = (),
    ) -> Settled:
        changed = 0
        due: list[Millis] = []
        for outcome in outcomes:
            row = self.rows.get(outcome.seq)
            if row and row.claim == claim.token and row.state == State.CLAIMED:
                self._apply(row, outcome, now, policy.horizon)
                changed += 1
                if row.state == State.READY:
                    due.append(max(row.due, now))
        return Settled(changed, min(due, default=None))

    def _apply(self, row: Row, outcome: Outcome, now: Millis, horizon: int) -> None:
        match outcome:
            case Accepted():
                row.set(State.ACCEPTED)
                row.request, row.settled_at = outcome.request, now
            case Skipped():
                row.set(State.SKIPPED, detail=outcome.reason)
                row.settled_at = now
            case Held():
                row.set(State.HELD, problem=outcome.problem.value, detail=outcome.detail)
                row.settled_at = now
            case Dead():
                row.set(State.DEAD, problem=outcome.problem.value, detail=outcome.detail)
                row.request, row.settled_at = outcome.request, now
            case Unsent():
                row.state, row.claim = State.READY, None
                row.attempts -= 1
                row.mapping = row.mapping if row.single else None
            case Retry() | Ambiguous():
                row.single = row.single or isinstance(outcome, Ambiguous)
                row.failing_since = row.failing_since or now
                if now - row.failing_since >= horizon:
                    last = f"last: {outcome.problem} {outcome.detail}".strip()
                    row.set(State.DEAD, problem=Problem.RETRIES_EXHAUSTED.value, detail=last)
                    row.settled_at = now
                else:
                    row.set(State.READY, problem=outcome.problem.value, detail=outcome.detail)
                    row.due = Millis(now + round(outcome.after * 1000))
                    row.mapping = row.mapping if row.single else None

    async def recover(self, fence: Fence, *, now: Millis, claim: Claim | None = None) -> int:
        self._require(fence, now)
        gone = [row for row in self.rows.values() if row.state == State.CLAIMED]
        if claim:
            mine = [row for row in gone if row.claim == claim.token]
            for row in mine:
                self._apply(row, Unsent(row.seq), now, 0)
            return len(mine)
        for row in gone:
            row.set(State.READY, problem=Problem.INTERRUPTED.value)
            row.single, row.due = True, now
            row.failing_since = row.failing_since or now
        return len(gone)

    async def extend_horizon(self, lane: LaneId, pause: int) -> int:
        rows = self._ready(lane, True) + self._ready(lane, False)
        failing = [row for row in rows if row.failing_since is not None]
        for row in failing:
            row.failing_since = Millis((row.failing_since or 0) + pause)
        return len(failing)

    async def prune_records(
        self, *, now: Millis, keep: Mapping[State, int], limit: int, after: int = 0
    ) -> Pruned:
        old = [
            row
            for state, age in keep.items()
            for row in sorted(self.rows.values(), key=lambda row: row.seq)
            if row.state == state and self._kept_since(row) < now - age
        ]
        for row in old:
            del self.rows[row.seq]
            self._keys = {key: kept for key, kept in self._keys.items() if kept is not row}
        return Pruned(len(old), None)

    def _kept_since(self, row: Row) -> int:
        ended = row.state in (*_STUCK, State.DISCARDED)
        return (row.settled_at if ended else None) or row.page.received_at

    # ── dead letters ─────────────────────────────────────────────────────────────────────────────

    def _stuck(self) -> list[Row]:
        return [row for row in self.rows.values() if row.state in _STUCK]

    async def groups(self) -> Sequence[StuckGroup]:
        counts = Counter((row.page.lane, row.state, row.problem or "") for row in self._stuck())
        return [StuckGroup(*key, count) for key, count in counts.items()]

    async def find(
        self, which: DeadLetterFilter = ANY_DEAD_LETTER, *, limit: int = 100
    ) -> Sequence[DeadLetter]:
        rows = sorted(self._chosen(which), key=lambda row: -row.seq)
        return [_dead_letter(row) for row in rows[:limit]]

    async def retry(self, which: DeadLetterFilter, *, now: Millis) -> tuple[int, int | None]:
        rows = [row for row in self._chosen(which) if row.email]
        for row in rows:
            row.set(State.READY)
            row.due, row.attempts, row.failing_since, row.settled_at = now, 0, None, None
        return len(rows), max((row.seq for row in rows), default=None)

    async def discard(
        self, which: DeadLetterFilter, *, reason: str, now: Millis
    ) -> tuple[int, int | None]:
        rows = self._chosen(which)
        for row in rows:
            row.set(State.DISCARDED, problem=row.problem, detail=reason)
            row.settled_at = now
        return len(rows), max((row.seq for row in rows), default=None)

    def _chosen(self, which: DeadLetterFilter) -> list[Row]:
        rows = [row for row in self._stuck() if not which.ids or row.seq in which.ids]
        return [row for row in rows if which.cause in (None, row.problem)]

    # ── lanes and reports ────────────────────────────────────────────────────────────────────────

    async def ensure(self, connection: str, destination: str, kind: Kind) -> Lane:
        for lane, _ in self._lanes.values():
            if (lane.connection, lane.destination, lane.kind) == (connection, destination, kind):
                return lane
        lane = Lane(LaneId(len(self._lanes) + 1), connection, destination, kind)
        self._lanes[lane.id] = (lane, LaneState())
        return lane

    async def all(self) -> Sequence[tuple[Lane, LaneState]]:
        return sorted(self._lanes.values(), key=lambda pair: (pair[0].connection, pair[0].id))

    async def backlog(self) -> Sequence[Backlog]:
        found = []
        for lane, state in await self.all():
            rows = [row for row in self.rows.values() if row.page.lane.id == lane.id]
            counts = {s: sum(row.state == s for row in rows) for s in State}
            ready = [row for row in rows if row.state == State.READY]
            first = min(ready, key=lambda row: row.seq, default=None)
            found.append(
                Backlog(
                    lane,
                    state,
                    ready=counts[State.READY],
                    claimed=counts[State.CLAIMED],
                    held=counts[State.HELD],
                    dead=counts[State.DEAD],
                    oldest=first.page.received_at if first else None,
                )
            )
        return found

    async def streams(self) -> Sequence[tuple[str, str, str, Millis]]:
        return sorted((*key, *saved) for key, saved in self._checkpoints.items())

    async def latencies(self, lane: LaneId, limit: int) -> Sequence[int]:
        rows = [
            row
            for row in self.rows.values()
            if row.page.lane.id == lane and row.state == State.ACCEPTED
        ]
        rows.sort(key=lambda row: -row.seq)
        return [(row.settled_at or 0) - row.page.received_at for row in rows[:limit]]

    async def usage_since(self, account: str, since: Mapping[str, int]) -> Sequence[QuotaUsage]:
        found = [
            QuotaUsage(of, endpoint, second, count)
            for (of, endpoint, second), count in self._spend.items()
            if of == account and second >= since.get(endpoint, second + 1)
        ]
        return sorted(found, key=lambda spend: spend.second)

    async def save_usage(self, usage: Sequence[QuotaUsage]) -> None:
        for s in usage:
            key = (s.account, s.endpoint, s.second)
            self._spend[key] = self._spend.get(key, 0) + s.count

    # ── leases ────────────────────────────────────────────────────────────────────────

    def _require(self, fence: Fence, now: Millis) -> None:
        holder, token, expires_at = self._leases.get(fence.resource, ("", 0, Millis(0)))
        if (holder, token) != (fence.holder, fence.token):
            raise StoreError(Problem.STORE_HELD, f"{fence.resource} is held by {holder}")
        if expires_at <= now:
            raise StoreError(Problem.STORE_HELD, f"our lease of {fence.resource} has expired")

    async def acquire(
        self, resource: str, holder: str, *, now: Millis, ttl: int, dead_holder: str | None = None
    ) -> Fence | Holder:
        had, token, expires_at = self._leases.get(resource, (holder, 0, Millis(0)))
        if had not in (holder, dead_holder) and expires_at > now:
            return Holder(had, expires_at, expired=False)
        self._leases[resource] = (holder, token + 1, Millis(now + ttl))
        return Fence(resource, holder, token + 1)

    async def renew(self, fences: Collection[Fence], *, now: Millis, ttl: int) -> frozenset[Fence]:
        return self._set_expiry(fences, Millis(now + ttl))

    async def release(self, fences: Collection[Fence]) -> None:
        self._set_expiry(fences, Millis(0))

    def _set_expiry(self, fences: Collection[Fence], at: Millis) -> frozenset[Fence]:
        held = {
            f for f in fences if self._leases.get(f.resource, ("", 0))[:2] == (f.holder, f.token)
        }
        for fence in held:
            self._leases[fence.resource] = (fence.holder, fence.token, at)
        return frozenset(held)

    async def holders(self, *, now: Millis) -> Mapping[str, Holder]:
        return {
            resource: Holder(holder, expires_at, expired=expires_at <= now)
            for resource, (holder, _, expires_at) in self._leases.items()
        }


def _dead_letter(row: Row) -> DeadLetter:
    lane = row.page.lane
    return DeadLetter(
        id=row.seq,
        connection=lane.connection,
        destination=lane.destination,
        kind=lane.kind,
        state=row.state,
        name=row.record.name,
        unique_id=row.record.unique_id,
        problem=row.problem or "",
        detail=row.detail,
        attempts=row.attempts,
        received_at=row.page.received_at,
        settled_at=row.settled_at,
    )
