"""The store in memory: obeys the same contract as the SQL store, for tests that need no disk."""

from __future__ import annotations

import itertools
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import DeliveryMode, Kind, Lane, LaneId, LaneState, Millis, QuotaUsage
from connector.domain.memberships import Group
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
from connector.domain.records import Appended, Checkpoint, Claim, Entry, Page, Record, State
from connector.ports import (
    Approval,
    Backlog,
    Command,
    DeadLetter,
    DeadLetterDetail,
    Fence,
    Holder,
    ReadyCounts,
    RetryPolicy,
)

_STUCK = (State.HELD, State.DEAD)


@dataclass
class Row:
    """A stored record and where it stands."""

    seq: int
    page: Page
    record: Record
    person: int | None
    email: str | None
    state: State
    due: Millis
    solo: bool = False
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
            mode=DeliveryMode(self.solo),
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


class MemoryApprovals:
    """connector.ports.Approvals."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, str], Approval] = {}
        self._ids = itertools.count(1)

    async def request(
        self, connection: str, what: str, subject: str, detail: Mapping[str, Any], *, now: Millis
    ) -> Approval:
        key = (connection, what, subject)
        found = self._open.get(key)
        if found is None:
            found = Approval(next(self._ids), *key, dict(detail), "pending", now)
        elif found.state == "pending":
            found = replace(found, detail=dict(detail))
        self._open[key] = found
        return found

    async def find(self, *, pending: bool = True) -> Sequence[Approval]:
        found = sorted(self._open.values(), key=lambda a: a.id)
        return [a for a in found if a.state == "pending" or not pending]

    async def decide(self, id: int, *, approved: bool, by: str, now: Millis) -> Approval | None:
        for key, found in self._open.items():
            if found.id == id and found.state == "pending":
                word: Literal["approved", "rejected"] = "approved" if approved else "rejected"
                answered = replace(found, state=word, decided_at=now, decided_by=by)
                self._open[key] = answered
                return answered
        return None

    async def close(self, connection: str, what: str, subject: str) -> None:
        self._open.pop((connection, what, subject), None)


class MemoryNotices:
    """connector.ports.Notices."""

    def __init__(self) -> None:
        self._sent: dict[str, dict[str, str]] = {}

    async def sent(self, target: str) -> Mapping[str, str]:
        return dict(self._sent.get(target, {}))

    async def record(
        self, target: str, new: Mapping[str, str], *, resolved: Sequence[str], now: Millis
    ) -> None:
        known = self._sent.get(target, {})
        self._sent[target] = {k: t for k, t in known.items() if k not in resolved} | dict(new)


class NoGroups:
    """As much of connector.ports.MemberGroups as a store without links is asked for."""

    async def all(self, connection: str | None = None) -> Sequence[Group]:
        return []


class MemoryStore:
    """connector.ports.Store in memory. Every port is this one object."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self._keys: dict[tuple[str, Kind, str], Row] = {}
        self._people: list[Person] = []
        self._lanes: dict[LaneId, tuple[Lane, LaneState]] = {}
        self._checkpoints: dict[tuple[str, str], tuple[str, Millis]] = {}
        self._leases: dict[str, tuple[str, int, Millis]] = {}
        self._commands: dict[int, Command] = {}
        self._claimed_commands: set[int] = set()
        self._spend: dict[tuple[str, str, int], int] = {}
        self._mappings: dict[str, str] = {}
        self._accounts: dict[str, str] = {}
        self._requests: dict[str, tuple[LaneId, Request]] = {}
        self._seq = itertools.count(1)
        self.dead_letters = self.lanes = self.reports = self.checkpoints = self
        self.facts = self.leases = self.commands = self
        self.approvals = MemoryApprovals()
        self.member_groups = NoGroups()
        self.notifications = MemoryNotices()
        self.broken: StoreError | None = None
        """While it is set, every call of the outbox and of `set_state` raises it."""

    async def aclose(self) -> None: ...

    def _check_available(self) -> None:
        if self.broken:
            raise self.broken

    # ── outbox ───────────────────────────────────────────────────────────────────────────────────

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        self._check_available()
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
            found = next((p for p in ours if p.platform_id == record.person), None)
            found = found or next(
                (
                    p
                    for p in reversed(ours)
                    if record.email and p.email == record.email and p.platform_id is None
                ),
                None,
            )
        elif record.email:
            found = next((p for p in reversed(ours) if p.email == record.email), None)
        else:
            return None
        if found is None:
            found = Person(len(self._people) + 1, connection, record.person, record.email)
            self._people.append(found)
        found.platform_id = record.person or found.platform_id
        found.email = record.email or found.email
        return found

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

    def _ready(self, lane: LaneId, solo: bool) -> list[Row]:
        return [
            row
            for row in self.rows.values()
            if row.page.lane.id == lane and row.state == State.READY and row.solo == solo
        ]

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        self._check_available()
        waiting = self._ready(lane, False) + self._ready(lane, True)
        later = [row.due for row in waiting if row.due > now]
        counts = Counter((row.solo, row.page.backfill) for row in waiting if row.due <= now)
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
    ) -> Claim | None:
        self._check_available()
        self._require(fence, now)
        await self.save_usage(usage)
        due = [
            row
            for row in self._ready(lane.id, bool(mode))
            if row.due <= now and backfill in (None, row.page.backfill)
        ]
        due.sort(key=lambda row: (row.page.backfill, row.due, row.seq))
        token = secrets.randbits(62)
        for row in due[:limit]:
            row.state, row.claim = State.CLAIMED, token
            row.attempts += 1
            row.mapping = (row.mapping or mapping) if row.solo else mapping
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
    ) -> int:
        self._check_available()
        for request in requests:
            self._requests[request.id] = (claim.lane.id, request)
        changed = 0
        for outcome in outcomes:
            row = self.rows.get(outcome.seq)
            if row and row.claim == claim.token and row.state == State.CLAIMED:
                self._apply(row, outcome, now, policy.horizon)
                changed += 1
        return changed

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
                row.mapping = row.mapping if row.solo else None
            case Retry() | Ambiguous():
                row.solo = row.solo or isinstance(outcome, Ambiguous)
                row.failing_since = row.failing_since or now
                if now - row.failing_since >= horizon:
                    last = f"last: {outcome.problem} {outcome.detail}".strip()
                    row.set(State.DEAD, problem=Problem.RETRIES_EXHAUSTED.value, detail=last)
                    row.settled_at = now
                else:
                    row.set(State.READY, problem=outcome.problem.value, detail=outcome.detail)
                    row.due = Millis(now + round(outcome.after * 1000))
                    row.mapping = row.mapping if row.solo else None

    async def recover(self, fence: Fence, *, now: Millis) -> int:
        self._check_available()
        self._require(fence, now)
        gone = [row for row in self.rows.values() if row.state == State.CLAIMED]
        for row in gone:
            row.set(State.READY, problem=Problem.INTERRUPTED.value)
            row.solo, row.due = True, now
            row.failing_since = row.failing_since or now
        return len(gone)

    async def extend_horizon(self, lane: LaneId, pause: int) -> int:
        self._check_available()
        rows = self._ready(lane, True) + self._ready(lane, False)
        failing = [row for row in rows if row.failing_since is not None]
        for row in failing:
            row.failing_since = Millis((row.failing_since or 0) + pause)
        return len(failing)

    async def clear_bodies(self, *, before: Millis, after: int, limit: int) -> int | None:
        return None

    async def prune_timeline(self, *, before: Millis, limit: int) -> int:
        old = [id for id, (_, sent) in self._requests.items() if sent.sent_at < before][:limit]
        for id in old:
            del self._requests[id]
        return len(old)

    async def prune(self, *, now: Millis, keep: Mapping[State, int], limit: int) -> int:
        old = [
            row
            for state, age in keep.items()
            for row in sorted(self.rows.values(), key=lambda row: row.seq)
            if row.state == state and row.page.received_at < now - age
        ][:limit]
        for row in old:
            del self.rows[row.seq]
            self._keys = {key: kept for key, kept in self._keys.items() if kept is not row}
        return len(old)

    # ── dead letters ─────────────────────────────────────────────────────────────────────────────

    def _stuck(self) -> list[Row]:
        return [row for row in self.rows.values() if row.state in _STUCK]

    async def groups(self) -> Sequence[tuple[str, State, str, int]]:
        counts: dict[tuple[str, State, str], int] = {}
        for row in self._stuck():
            key = (row.page.lane.connection, row.state, row.problem or "")
            counts[key] = counts.get(key, 0) + 1
        found = [(*key, n) for key, n in counts.items()]
        return sorted(found, key=lambda group: (-group[3], group[0], group[2]))

    async def find(
        self, *, problem: str | None = None, connection: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetter]:
        rows = [
            row
            for row in self._stuck()
            if problem in (None, row.problem) and connection in (None, row.page.lane.connection)
        ]
        return [_dead_letter(row) for row in sorted(rows, key=lambda row: -row.seq)[:limit]]

    async def show(self, id: int) -> DeadLetterDetail | None:
        row = self.rows.get(id)
        if row is None:
            return None
        sent = self._requests.get(row.request or "")
        return DeadLetterDetail(_dead_letter(row), row.entry(), sent[1] if sent else None)

    async def retry(
        self,
        *,
        ids: Sequence[int] = (),
        problem: str | None = None,
        every: bool = False,
        now: Millis,
    ) -> int:
        rows = [row for row in self._stuck() if row.email]
        if ids:
            rows = [row for row in rows if row.seq in ids]
        elif problem:
            rows = [row for row in rows if row.problem == problem]
        elif not every:
            rows = []
        for row in rows:
            row.set(State.READY)
            row.due, row.attempts, row.failing_since, row.settled_at = now, 0, None, None
        return len(rows)

    async def discard(self, ids: Sequence[int], *, reason: str, now: Millis) -> int:
        rows = [row for row in self._stuck() if row.seq in ids]
        for row in rows:
            row.set(State.DISCARDED, problem=row.problem, detail=reason)
            row.settled_at = now
        return len(rows)

    # ── lanes and insight ────────────────────────────────────────────────────────────────────────

    async def ensure(self, connection: str, destination: str, kind: Kind) -> Lane:
        for lane, _ in self._lanes.values():
            if (lane.connection, lane.destination, lane.kind) == (connection, destination, kind):
                return lane
        lane = Lane(LaneId(len(self._lanes) + 1), connection, destination, kind)
        self._lanes[lane.id] = (lane, LaneState())
        return lane

    async def all(self) -> Sequence[tuple[Lane, LaneState]]:
        return sorted(self._lanes.values(), key=lambda pair: (pair[0].connection, pair[0].id))

    async def set_state(self, lane: LaneId, state: LaneState) -> None:
        self._check_available()
        self._lanes[lane] = (self._lanes[lane][0], state)

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

    async def dead_by_cause(self) -> Sequence[tuple[str, str, int]]:
        return sorted(
            (connection, problem, n)
            for connection, state, problem, n in await self.groups()
            if state == State.DEAD
        )

    async def streams(self) -> Sequence[tuple[str, str, str, Millis]]:
        return sorted((*key, *saved) for key, saved in self._checkpoints.items())

    async def recent_requests(self, limit: int) -> Sequence[tuple[str, str, Request]]:
        newest = sorted(self._requests.values(), key=lambda pair: (-pair[1].sent_at, pair[1].id))
        lanes = {id: lane for id, (lane, _) in self._lanes.items()}
        return [(lanes[id].connection, lanes[id].destination, r) for id, r in newest[:limit]]

    async def latencies(self, lane: LaneId, limit: int) -> Sequence[int]:
        rows = [
            row
            for row in self.rows.values()
            if row.page.lane.id == lane and row.state == State.ACCEPTED
        ]
        rows.sort(key=lambda row: -row.seq)
        return [(row.settled_at or 0) - row.page.received_at for row in rows[:limit]]

    # ── checkpoints and memory ───────────────────────────────────────────────────────────────────

    async def load(self, connection: str, stream: str) -> Checkpoint | None:
        saved = self._checkpoints.get((connection, stream))
        return Checkpoint(stream, saved[0]) if saved else None

    async def usage_since(self, *, since_second: int) -> Sequence[QuotaUsage]:
        found = [
            QuotaUsage(account, endpoint, second, count)
            for (account, endpoint, second), count in self._spend.items()
            if second >= since_second
        ]
        return sorted(found, key=lambda spend: spend.second)

    async def save_usage(self, usage: Sequence[QuotaUsage]) -> None:
        for s in usage:
            key = (s.account, s.endpoint, s.second)
            self._spend[key] = self._spend.get(key, 0) + s.count

    async def save_mapping(self, version: str, text: str, *, now: Millis) -> None:
        self._mappings.setdefault(version, text)

    async def mapping(self, version: str) -> str | None:
        return self._mappings.get(version)

    async def pinned_account(self, connection: str) -> str | None:
        return self._accounts.get(connection)

    async def pin_account(self, connection: str, account: str, *, force: bool = False) -> str:
        if force:
            self._accounts[connection] = account
        return self._accounts.setdefault(connection, account)

    # ── leases and orders ────────────────────────────────────────────────────────────────────────

    def _require(self, fence: Fence, now: Millis) -> None:
        holder, token, expires_at = self._leases.get(fence.resource, ("nobody", 0, Millis(0)))
        if (holder, token) != (fence.holder, fence.token):
            raise StoreError(Problem.STORE_HELD, f"{fence.resource} is held by {holder}")
        if expires_at <= now:
            raise StoreError(Problem.STORE_HELD, f"our lease of {fence.resource} has expired")

    async def acquire(
        self, resource: str, holder: str, *, now: Millis, ttl: int, dead_holder: str | None = None
    ) -> Fence | Holder:
        had, token, expires_at = self._leases.get(resource, (holder, 0, Millis(0)))
        if had not in (holder, dead_holder) and expires_at > now:
            return Holder(had, expires_at)
        self._leases[resource] = (holder, token + 1, Millis(now + ttl))
        return Fence(resource, holder, token + 1)

    async def renew(self, fence: Fence, *, now: Millis, ttl: int) -> bool:
        holder, token, _ = self._leases.get(fence.resource, ("", 0, Millis(0)))
        if (holder, token) != (fence.holder, fence.token):
            return False
        self._leases[fence.resource] = (holder, token, Millis(now + ttl))
        return True

    async def release(self, fence: Fence) -> None:
        await self.renew(fence, now=Millis(0), ttl=0)

    async def holder(self, resource: str) -> Holder | None:
        lease = self._leases.get(resource)
        return Holder(lease[0], lease[2]) if lease else None

    async def submit(self, kind: str, args: Mapping[str, Any], *, by: str, now: Millis) -> int:
        order = Command(len(self._commands) + 1, kind, dict(args), now)
        self._commands[order.id] = order
        return order.id

    async def fetch(self, *, now: Millis) -> Sequence[Command]:
        found = [
            order for order in self._commands.values() if order.id not in self._claimed_commands
        ]
        self._claimed_commands.update(order.id for order in found)
        return found

    async def requeue(self) -> int:
        open_ = {id for id in self._claimed_commands if self._commands[id].done_at is None}
        self._claimed_commands -= open_
        return len(open_)

    async def finish(self, id: int, *, ok: bool, result: Mapping[str, Any], now: Millis) -> None:
        order = self._commands[id]
        self._commands[id] = replace(order, done_at=now, ok=ok, result=dict(result))

    async def get(self, id: int) -> Command | None:
        return self._commands.get(id)


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
