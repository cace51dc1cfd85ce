"""Memberships as states in SQL: wanted, told one write per person at a time, confirmed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.memberships import Group, Link
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
from connector.domain.profile_state import address_hash
from connector.domain.records import Claim, Entry, State
from connector.ports import (
    Fence,
    Member,
    MembershipCounts,
    MembersPage,
    PendingRemovals,
    ReadyCounts,
)
from connector.store.admin import leases
from connector.store.database import Database
from connector.store.people import groups as group_rows
from connector.store.people.groups import IN, OUT
from connector.store.queues import queue
from connector.store.tables import groups, in_state, memberships, profiles, source_members

_RECHECK_AFTER = 1_000
_AMBIGUOUS_WAIT = 30_000
"""ms: a request that timed out here may still be applied there for so long."""
_M = memberships.c
_ROW = (
    *(c for c in memberships.c if c.name not in ("address", "claim", "receipt", "request")),
    groups.c.remote_id,
    groups.c.kind,
    groups.c.remove_foreign,
    groups.c.writes_enabled,
)
_ROWS = select(*_ROW).join(groups, groups.c.id == _M.target)


class SqlMemberships(queue.ReceiptedQueue):
    """connector.ports.Memberships."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, memberships, _M.id, _M.settled_at)

    # ── as a queue ───────────────────────────────────────────────────────────────────────────────

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        """What is ready may be held back by a write to the same profile on another lane: nobody
        says when that ends, so look again soon."""
        found = await super().ready(lane, now=now, limit=limit)
        if not (found.fresh or found.backfill_fresh):
            return found
        again = Millis(now + _RECHECK_AFTER)
        due = again if found.next_due is None else min(again, found.next_due)
        return replace(found, next_due=due)

    def _claim_entries(self, c: Connection, spec: queue.ClaimSpec) -> list[Entry]:
        """Changes of one target, those that wait longest first."""
        conditions = () if spec.solo else _not_in_flight()
        target = _first_target(c, spec, conditions)
        if target is None:
            return []
        kept = {"sent": _M.wanted, "receipt": None, "position": None}
        rows = queue.claim(
            c,
            memberships,
            _M.id,
            spec,
            values=kept,
            returning=tuple(memberships.c),
            conditions=(*conditions, _M.target == target),
        )
        row = c.execute(select(groups).where(groups.c.id == target)).one()
        return [_entry(each, row.remote_id or row.name) for each in rows]

    def _settle(
        self, c: Connection, claim: Claim, outcomes: Sequence[Outcome], now: Millis, horizon: int
    ) -> int:
        rows = _rows(c, [outcome.seq for outcome in outcomes], claim.token)
        updates = [outcome for outcome in outcomes if outcome.seq in rows]
        _save(c, [_after_outcome(rows[outcome.seq], outcome, now, horizon) for outcome in updates])
        return len(updates)

    def _recover(self, c: Connection, now: Millis) -> int:
        """A job may hold those who were joining a list: they stay in flight until the far end's
        jobs are accounted for. Everything else is told again."""
        gone = (in_state(State.CLAIMED, memberships), _M.receipt.is_(None))
        lists = _M.target.in_(select(groups.c.id).where(groups.c.kind == "list"))
        maybe_joined = (_M.sent == IN, lists)
        held = c.execute(
            update(memberships).where(*gone, *maybe_joined).values(receipt="", settled_at=now)
        ).rowcount
        rows = c.execute(_ROWS.where(*gone).with_for_update(of=memberships)).all()
        ambiguous = Ambiguous(0, Problem.INTERRUPTED)
        _save(
            c, [_after_outcome(row, replace(ambiguous, seq=row.id), now, 1 << 60) for row in rows]
        )
        return held + len(rows)

    def _rows_of_receipt(self, lane: LaneId, receipt: str) -> Any:
        return _ROWS.where(
            _M.lane == lane, in_state(State.CLAIMED, memberships), _M.receipt == receipt
        ).order_by(_M.id)

    def _close(
        self,
        c: Connection,
        rows: Sequence[Any],
        now: Millis,
        failed: Mapping[int, tuple[Problem, str]],
    ) -> None:
        def outcome(row: Any) -> Outcome:
            fault = failed.get(row.position)
            return Dead(row.id, *fault) if fault else Accepted(row.id, "")

        _save(c, [_after_outcome(row, outcome(row), now, 0) for row in rows])

    def _requeue_ambiguous(self, c: Connection, rows: Sequence[Any], now: Millis) -> None:
        """Told again in smaller jobs, so that one bad address cannot take a whole job along for
        ever."""
        ambiguous = Ambiguous(0, Problem.JOB_LOST)
        _save(
            c,
            [
                _after_outcome(row, replace(ambiguous, seq=row.id), now, 1 << 60)
                | {"lost_jobs": row.lost_jobs + 1}
                for row in rows
            ],
        )

    async def requeue(self, lane: LaneId, states: Sequence[State], *, now: Millis) -> int:
        query = select(_M.id).where(_M.lane == lane, _M.state.in_([int(s) for s in states]))
        return await self._requeue(query, now)

    async def _requeue(self, query: Any, now: Millis) -> int:
        """Rows of the query, which are at rest, go where they belong, a part at a time."""
        total, after = 0, 0
        while True:

            def part(c: Connection, after: int = after) -> list[int]:
                ids = list(
                    c.execute(query.where(_M.id > after).order_by(_M.id).limit(1_000)).scalars()
                )
                rows = c.execute(_ROWS.where(_M.id.in_(ids)).with_for_update(of=memberships)).all()
                idle = [row for row in rows if row.state != State.CLAIMED]
                _save(c, [_ready_or_idle(row, now, priority=row.priority) for row in idle])
                return ids

            ids = await self._database.write(part)
            total += len(ids)
            if len(ids) < 1_000:
                return total
            after = ids[-1]

    # ── groups and scans ─────────────────────────────────────────────────────────────────────────

    async def set_links(self, lane: Lane, links: Sequence[Link], *, account: str) -> None:
        await self._database.write(lambda c: group_rows.link(c, lane, links, account))

    async def groups(self, connection: str | None = None) -> Sequence[Group]:
        query = select(groups).where(groups.c.active == 1).order_by(groups.c.target, groups.c.id)
        if connection is not None:
            query = query.where(groups.c.connection == connection)
        return await self._database.read(
            lambda c: [group_rows.group_of(r) for r in c.execute(query)]
        )

    async def set_remote_id(self, group: int, remote_id: str, title: str, *, now: Millis) -> None:
        def work(c: Connection) -> None:
            group_rows.change(c, group, remote_id=remote_id, title=title)

        await self._database.write(work)
        gone = (in_state(State.HELD, memberships), _M.problem == Problem.KLAVIYO_TARGET.value)
        await self._requeue(select(_M.id).where(_M.target == group, *gone), now)

    async def clear_remote_id(self, group: int) -> None:
        def work(c: Connection) -> None:
            group_rows.change(c, group, remote_id=None)

        await self._database.write(work)

    async def set_problem(self, group: int, problem: Problem | None, detail: str = "") -> None:
        word = problem.value if problem else None

        def work(c: Connection) -> None:
            group_rows.change(c, group, problem=word, detail=detail)

        await self._database.write(work)

    async def begin_scan(self, group: int, fence: Fence, *, now: Millis) -> Group:
        def work(c: Connection) -> Group:
            leases.require_lease(c, fence, now)
            return group_rows.begin(c, group, now)

        return await self._database.write(work)

    async def stage_page(
        self,
        group: int,
        page: MembersPage,
        fence: Fence,
        *,
        requested_at: Millis,
        now: Millis,
        track_joins: bool = False,
        without_address: int = 0,
    ) -> Group:
        def work(c: Connection) -> Group:
            leases.require_lease(c, fence, now)
            row = group_rows.lock_group(c, group)
            group_rows.stage(
                c, row, page.members, asked_at=requested_at, now=now, greets=track_joins
            )
            without = row.without_address + without_address
            if page.more:
                return group_rows.save_page(c, row, page, now, without_address=without)
            s = source_members.c
            mine = (s.source == group, s.gone == 0, s.scan == row.scan)
            count = c.execute(select(func.count()).where(*mine)).scalar_one()
            return group_rows.save_page(c, row, page, now, members=count, without_address=without)

        return await self._database.write(work)

    async def read_back(
        self, group: int, page: MembersPage, fence: Fence, *, requested_at: Millis, now: Millis
    ) -> Group:
        def work(c: Connection) -> Group:
            leases.require_lease(c, fence, now)
            row = group_rows.lock_group(c, group)
            _record_listed(c, row, page.members, requested_at, now)
            if page.more:
                return group_rows.save_page(c, row, page, now)
            there = (_M.target == group, _M.last_seen_scan == row.scan)
            count = c.execute(select(func.count()).where(*there)).scalar_one()
            return group_rows.save_page(c, row, page, now, members=count)

        return await self._database.write(work)

    async def find_manual_removals(self, target: int, *, re_add: bool, now: Millis) -> int:
        def work(c: Connection, row: Any, where: ColumnElement[bool]) -> int:
            return _compare(c, row, where, re_add, now)

        return await self._in_ranges(target, work)

    async def pending_removals(self, source: int) -> PendingRemovals:
        def work(c: Connection) -> PendingRemovals:
            row = c.execute(select(groups).where(groups.c.id == source)).one()
            target = c.execute(select(groups).where(groups.c.id == row.target)).one()
            here = (_M.target == target.id, _M.wanted == IN)
            stays = group_rows.is_member(target.id, _M.email, if_applied=source)
            gone = (*here, group_rows.would_be_removed(target), ~stays)
            count, of = (
                c.execute(select(func.count()).where(*w)).scalar_one() for w in (gone, here)
            )
            return PendingRemovals(count, of)

        return await self._database.read(work)

    async def apply_scan(self, source: int, *, now: Millis) -> int:
        def decide(c: Connection) -> int:
            row = group_rows.lock_group(c, source)
            group_rows.change(c, source, applied_scan=row.completed_scan)
            return int(row.target)

        target = await self._database.write(decide)
        left = await self._in_ranges(
            target, lambda c, t, w: group_rows.remove_wanted(c, t, w, now, priority=0)
        )
        after: str | None = ""
        while after is not None:
            end = after
            after = await self._database.write(
                lambda c, end=end: group_rows.sweep(c, group_rows.lock_group(c, source), end)  # type: ignore[misc]
            )
        return left

    async def resend_unconfirmed(self, target: int, *, now: Millis) -> int:
        def work(c: Connection, row: Any, where: ColumnElement[bool]) -> int:
            idle = (_M.unconfirmed == 1, _M.state == State.ACCEPTED)
            again = {"state": State.READY, "priority": 1, "due": now, "since": now}
            return c.execute(
                update(memberships).where(where, *idle).values(solo=1 - _M.wanted, **again)
            ).rowcount

        return await self._in_ranges(target, work)

    async def enable_writes(self, target: int, *, now: Millis) -> int:
        def decide(c: Connection) -> None:
            group_rows.change(c, target, writes_enabled=1)

        await self._database.write(decide)
        waits = (in_state(State.HELD, memberships), _M.problem == Problem.FIRST_SYNC.value)
        return await self._requeue(select(_M.id).where(_M.target == target, *waits), now)

    async def remove_foreign(self, target: int, *, now: Millis) -> int:
        foreign = (_M.wanted == OUT, _M.confirmed == IN, _M.state == State.ACCEPTED)

        def work(c: Connection, row: Any, where: ColumnElement[bool]) -> int:
            if not (row.remove_foreign and row.writes_enabled):
                return 0
            leave = {"state": State.READY, "solo": 1, "priority": 1, "due": now, "since": now}
            return c.execute(update(memberships).where(where, *foreign).values(leave)).rowcount

        return await self._in_ranges(target, work)

    async def _in_ranges(
        self, target: int, work: Callable[[Connection, Any, ColumnElement[bool]], int]
    ) -> int:
        """`work` on everybody of a target, a range of addresses at a time."""
        total, after = 0, ""
        while True:

            def part(c: Connection, after: str = after) -> tuple[int, str | None]:
                row = group_rows.lock_group(c, target)
                mine = select(_M.email).where(_M.target == target)
                end = group_rows.range_end(c, mine, _M.email, after)
                where = and_(_M.target == target, _M.email > after)
                return work(c, row, where if end is None else and_(where, _M.email <= end)), end

            count, end = await self._database.write(part)
            total += count
            if end is None:
                return total
            after = end

    async def count_members(self, target: int) -> MembershipCounts:
        def work(c: Connection) -> MembershipCounts:
            here, there = _M.wanted == IN, _M.confirmed == IN
            waiting = _M.state.in_((State.READY, State.CLAIMED))
            removed = and_(_M.state == State.HELD, _M.problem == Problem.REMOVED_BY_HAND.value)
            sums = (
                (here,),
                (there,),
                (here, there),
                (waiting,),
                (_M.unconfirmed == 1,),
                (removed,),
                (there, _M.wanted == OUT, _M.added_by_us == 0),
            )
            columns = [func.count().filter(and_(*where)) for where in sums]
            row = c.execute(select(*columns).where(_M.target == target)).one()
            return MembershipCounts(*(int(count) for count in row))

        return await self._database.read(work)

    async def unhandled_joins(self, source: int, *, limit: int) -> Sequence[Member]:
        return await self._database.read(lambda c: group_rows.to_greet(c, source, limit))

    async def mark_joins_handled(self, source: int, emails: Sequence[str]) -> None:
        await self._database.write(lambda c: group_rows.greeted(c, source, emails))

    async def reset_account(self, connection: str, *, now: Millis) -> None:
        def work(c: Connection) -> None:
            mine = (groups.c.connection == connection, groups.c.kind.in_(("list", "segment")))
            ids = select(groups.c.id).where(*mine)
            c.execute(delete(memberships).where(_M.target.in_(ids)))
            c.execute(delete(source_members).where(source_members.c.source.in_(ids)))
            fresh = {
                "remote_id": None,
                "title": "",
                "cursor": None,
                "scan_started_at": None,
                "writes_enabled": 0,
            }
            fresh |= {"completed_scan": 0, "applied_scan": 0, "completed_at": None, "members": 0}
            c.execute(update(groups).where(*mine).values(fresh))
            # Who should be on those lists is asked of the platform from the start.
            of_audiences = (groups.c.connection == connection, groups.c.kind == "audience")
            reset = {
                "cursor": None,
                "scan_started_at": None,
                "completed_scan": 0,
                "completed_at": None,
            }
            c.execute(update(groups).where(*of_audiences).values(reset))

        await self._database.write(work)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


def _not_in_flight() -> tuple[ColumnElement[bool], ...]:
    """Nobody else writes this person's profile: neither its fields nor another list."""
    writing = profiles.alias("writing")
    return (
        ~queue.is_joining_list(_M.address),
        ~exists(
            select(literal(1)).where(
                writing.c.address == _M.address, in_state(State.CLAIMED, writing)
            )
        ),
    )


def _first_target(
    c: Connection, spec: queue.ClaimSpec, conditions: tuple[ColumnElement[bool], ...]
) -> int | None:
    priorities = (0, 1) if spec.backfill is None else (int(spec.backfill),)
    for priority in priorities:
        query = (
            select(_M.target)
            .where(
                _M.lane == spec.lane,
                in_state(State.READY, memberships),
                _M.solo == int(spec.solo),
                _M.priority == priority,
                _M.due <= spec.now,
                *conditions,
            )
            .order_by(_M.due, _M.id)
            .limit(1)
        )
        target: int | None = c.execute(query).scalar()
        if target is not None:
            return target
    return None


def _entry(row: Any, remote_id: str) -> Entry:
    write = {
        "group": remote_id,
        "joins": bool(row.wanted),
        "email": row.email,
        "profile_id": row.profile_id,
        "platform_id": row.platform_id,
        "lost_jobs": row.lost_jobs,
    }
    return Entry(
        seq=row.id,
        unique_id=f"membership:{row.id}",
        name="join" if row.wanted else "leave",
        occurred_at=row.since,
        received_at=row.since,
        email=row.email,
        person=None,
        data=orjson.dumps(write),
        attempts=row.attempts,
        solo=bool(row.solo),
        mapping=None,
        backfill=bool(row.priority),
        failing_since=row.failing_since,
    )


def _rows(c: Connection, ids: Sequence[int], token: int) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for part in queue.chunks(ids):
        query = _ROWS.where(
            _M.id.in_(part), in_state(State.CLAIMED, memberships), _M.claim == token
        )
        locked = query.order_by(_M.id).with_for_update(of=memberships)
        found.update((row.id, row) for row in c.execute(locked))
    return found


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


def _ready_or_idle(
    row: Any, now: Millis, *, due: int | None = None, priority: int = 0, **changed: Any
) -> dict[str, Any]:
    """Ready again where what is confirmed is not what is wanted, else at rest."""
    confirmed, added = (
        changed.get("confirmed", row.confirmed),
        changed.get("added_by_us", row.added_by_us),
    )
    if row.wanted:
        open_ = confirmed != IN
    else:
        foreign = confirmed == IN and row.remove_foreign and row.writes_enabled
        open_ = bool((added and confirmed != OUT) or foreign)
    waits = open_ and not row.writes_enabled
    state = State.HELD if waits else State.READY if open_ else State.ACCEPTED
    return (
        _IDLE
        | {
            "id": row.id,
            "state": state,
            "solo": 1 - row.wanted,
            "due": now if due is None else due,
            "priority": priority,
            "problem": Problem.FIRST_SYNC.value if waits else None,
        }
        | changed
    )


def _after_outcome(row: Any, outcome: Outcome, now: Millis, horizon: int) -> dict[str, Any]:
    """The row after an outcome. What came to be wanted while it was in flight is ready at once."""
    added = {"added_by_us": IN} if row.sent else {}
    match outcome:
        case Accepted():
            # A leave that is taken twice without a word is believed.
            unconfirmed = not outcome.confirmed and bool(row.sent or not row.unconfirmed)
            updates = {
                "confirmed": row.sent,
                "added_by_us": row.sent,
                "unconfirmed": int(unconfirmed),
                "lost_jobs": 0,
            }
            return _ready_or_idle(row, now, **updates) | {
                "settled_at": now,
                "request": outcome.request,
            }
        case Pending():
            return {
                "id": row.id,
                "receipt": outcome.receipt,
                "position": outcome.position,
                "request": outcome.request,
                "settled_at": now,
                **added,
            }
        case Retry() | Ambiguous():
            return _retry_later(row, outcome, now, horizon)
        case Unsent():
            again = _ready_or_idle(row, now, due=row.due, priority=row.priority)
            return again | {"attempts": row.attempts - 1, "failing_since": row.failing_since}
        case Dead() | Held():
            if row.wanted != row.sent:
                return _ready_or_idle(row, now)
            state = State.DEAD if isinstance(outcome, Dead) else State.HELD
            why = {"problem": outcome.problem.value, "detail": outcome.detail}
            return _IDLE | {"id": row.id, "state": state, "settled_at": now, **why}
        case Skipped():
            # Shadow mode: nothing was told, and nothing waits to be.
            return _IDLE | {"id": row.id, "state": State.SKIPPED}
        case _:
            raise AssertionError(outcome)


def _retry_later(row: Any, outcome: Retry | Ambiguous, now: Millis, horizon: int) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    after = round(outcome.after * 1000)
    if isinstance(outcome, Ambiguous):
        changed = {"confirmed": None, "settled_at": now} | ({"added_by_us": IN} if row.sent else {})
        after = max(after, _AMBIGUOUS_WAIT)
    since = row.failing_since or now
    if now - since >= horizon:
        last = f"last: {outcome.problem} {outcome.detail}".strip()
        why = {"problem": Problem.RETRIES_EXHAUSTED.value, "detail": last, "settled_at": now}
        return _IDLE | {"id": row.id, "state": State.DEAD} | why | changed
    again = _ready_or_idle(row, now, due=now + after, priority=row.priority, **changed)
    if again["state"] != State.READY:
        return again
    why = {"problem": outcome.problem.value, "detail": outcome.detail}
    return again | why | {"attempts": row.attempts, "failing_since": since}


def _save(c: Connection, changes: Iterable[dict[str, Any]]) -> None:
    """Rows of like shape are written together."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for change in changes:
        alike.setdefault(tuple(sorted(change)), []).append(change)
    for rows in alike.values():
        c.execute(
            update(memberships).where(_M.id == bindparam("row")),
            [{"row": row.pop("id"), **row} for row in rows],
        )


# ── the list as it is ────────────────────────────────────────────────────────────────────────────


def _record_listed(
    c: Connection, target: Any, members: Sequence[Member], asked_at: Millis, now: Millis
) -> None:
    """These people are on the list, says a page that was asked for then. What was told since, or
    is being told, counts more."""
    people = group_rows.by_address(c, target.connection, members)
    rows: dict[str, Any] = {}
    for part in queue.chunks(list(people)):
        query = _ROWS.where(_M.target == target.id, _M.email.in_(part))
        rows.update((r.email, r) for r in c.execute(query.with_for_update(of=memberships)))
    changes = []
    for email, row in rows.items():
        listed = {
            "last_seen_scan": target.scan,
            "profile_id": people[email].profile_id or row.profile_id,
        }
        older = row.state == State.CLAIMED or row.settled_at >= asked_at
        if row.confirmed == IN or older:
            changes.append({"id": row.id, **listed})
        else:
            changes.append(_ready_or_idle(row, now, priority=row.priority, confirmed=IN) | listed)
    _save(c, changes)
    new = [
        {
            "lane": target.lane,
            "target": target.id,
            "email": email,
            "address": address_hash(target.account, email),
            "wanted": OUT,
            "confirmed": IN,
            "state": State.ACCEPTED,
            "due": now,
            "since": now,
            "last_seen_scan": target.scan,
            "profile_id": member.profile_id,
        }
        for email, member in people.items()
        if email not in rows
    ]
    if new:
        c.execute(insert(memberships), new)


def _compare(
    c: Connection, target: Any, where: ColumnElement[bool], re_add: bool, now: Millis
) -> int:
    """Who should be there and was not seen has been taken off by hand, unless we told something
    since the read-back began. Who is neither wanted nor there is forgotten."""
    since = target.completed_at - target.scan_ms
    old = and_(where, _M.state != State.CLAIMED, _M.settled_at < since)
    missing = and_(old, _M.confirmed == IN, _M.last_seen_scan < target.completed_scan)
    away = and_(old, _M.wanted == OUT, or_(_M.confirmed == OUT, missing))
    c.execute(delete(memberships).where(away))
    held = and_(where, _M.state == State.HELD, _M.problem == Problem.REMOVED_BY_HAND.value)
    rest = {"confirmed": OUT, "solo": 0, "due": now, "detail": "", "attempts": 0}
    if not target.writes_enabled:
        rest |= {"state": State.HELD, "problem": Problem.FIRST_SYNC.value}
        c.execute(update(memberships).where(missing, _M.wanted == IN).values(rest))
        return 0
    if re_add:
        rest |= {"state": State.READY, "problem": None, "priority": 0}
        again = or_(and_(missing, _M.wanted == IN), held)
        return c.execute(update(memberships).where(again).values(rest)).rowcount
    rest |= {"state": State.HELD, "problem": Problem.REMOVED_BY_HAND.value}
    c.execute(update(memberships).where(missing, _M.wanted == IN).values(rest))
    return int(c.execute(select(func.count()).where(held)).scalar_one())
