"""Membership changes as a queue. One write per person is in flight at a time, over all targets and
profiles (guarantee 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    exists,
    literal,
    select,
    update,
)

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, LaneId, Millis
from connector.domain.memberships import Change
from connector.domain.outcomes import UNKNOWN_JOB, Accepted, Ambiguous, Dead, Held, Outcome, Unsent
from connector.domain.records import Claim, Entry, State
from connector.ports import RetryPolicy, Settled
from connector.store.database import Database
from connector.store.people import groups as group_rows
from connector.store.pieces import Pieces
from connector.store.prepared import param
from connector.store.queues import queue
from connector.store.queues.membership_rows import (
    MOST_REQUEUED,
    ROWS,
    held_for,
    lock,
    requeue,
    requeue_stuck,
    save,
)
from connector.store.queues.membership_state import (
    IN,
    NO_HORIZON,
    MembershipRow,
    after_outcome,
    lost_with_job,
)
from connector.store.queues.receipts import ReceiptedQueue, is_joining_list
from connector.store.statements import chunks
from connector.store.tables import (
    STUCK,
    groups,
    in_state,
    memberships,
    memberships_queue,
    profiles,
)

_M = memberships.c
"""ms"""


class SqlMembershipQueue(ReceiptedQueue):
    """connector.ports.MembershipQueue."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, memberships_queue, _M.settled_at)
        self._requeued = Pieces(database, MOST_REQUEUED)

    async def requeue(self, lane: LaneId, states: Sequence[State], *, now: Millis) -> int:
        total = 0
        for state in states:
            if state in STUCK:
                total += await requeue_stuck(self._database, self._requeued, now, lane, state)
            else:
                at_rest = _M.lane == lane, in_state(state, memberships)
                total += await requeue(self._requeued, now, *at_rest)
        return total

    async def release_linked(self, lane: LaneId, *, now: Millis) -> int:
        linked = select(groups.c.id).where(groups.c.lane == lane, groups.c.active == 1)
        of_linked = _M.lane == lane, _M.target.in_(linked)
        return await requeue(self._requeued, now, *of_linked, held_for(Problem.NOT_LIVE))

    def _claim_entries(
        self, c: Connection, spec: queue.ClaimSpec, before: Sequence[Entry]
    ) -> list[Entry] | None:
        """Changes of one target, those that wait longest first. Those of a target that is no longer
        linked are held on the way."""
        if before:
            same = select(_M.target).where(_M.id == before[0].seq)
            target: int | None = c.execute(same).scalar()
        else:
            target = _first_target(c, spec)
        if target is None:
            return []
        rows = _CLAIMS[spec.mode].run(c, spec, target=target)
        claimed = [_ClaimedRow._make(row) for row in rows]
        group = group_rows.get(c, target)
        if not group.active:
            found = lock(c, _M.id.in_([row.id for row in claimed]))
            save(c, [after_outcome(row, _unlinked(row), spec.now, NO_HORIZON) for row in found])
            return None
        return [_entry(row, group.remote_id or group.name) for row in claimed]

    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> Settled:
        rows: dict[int, MembershipRow] = {}
        mine = (in_state(State.CLAIMED, memberships), _M.claim == claim.token)
        for ids in chunks([outcome.seq for outcome in outcomes]):
            rows.update((row.id, row) for row in lock(c, _M.id.in_(ids), *mine))
        held = [outcome for outcome in outcomes if outcome.seq in rows]
        changes = [after_outcome(rows[each.seq], each, now, policy.horizon) for each in held]
        due = [change.get("due", now) for change in changes if change.get("state") == State.READY]
        save(c, changes)
        return Settled(len(held), queue.earliest(due))

    def _keeps_its_time(self, now: Millis) -> queue.Condition:
        return _M.ambiguous_until > now

    def _recover(self, c: Connection, now: Millis, of: ColumnElement[bool]) -> int:
        """An import job of the lost holder may still add people to a list: they stay in flight,
        under an unknown receipt, until every open job is accounted for. All else is sent again."""
        lost = (in_state(State.CLAIMED, memberships), _M.receipt.is_(None), of)
        of_lists = _M.target.in_(select(groups.c.id).where(groups.c.kind == "list"))
        joining = update(memberships).where(*lost, _M.sent == IN, of_lists)
        in_flight = c.execute(
            joining.values(receipt=f"{UNKNOWN_JOB}{now}", settled_at=now)
        ).rowcount
        rows = lock(c, *lost)
        save(
            c,
            [
                after_outcome(row, Ambiguous(row.id, Problem.INTERRUPTED), now, NO_HORIZON)
                for row in rows
            ],
        )
        return in_flight + len(rows)

    def _give_back(self, c: Connection, claim: Claim, now: Millis) -> int:
        mine = in_state(State.CLAIMED, memberships), _M.claim == claim.token
        rows = lock(c, _M.lane == claim.lane.id, *mine)
        save(c, [after_outcome(row, Unsent(row.id), now, NO_HORIZON) for row in rows])
        return len(rows)

    # ── import jobs ──────────────────────────────────────────────────────────────────────────────

    def _rows_of_receipt(self, lane: LaneId, receipt: str) -> Select[Any]:
        return ROWS.where(
            _M.lane == lane, in_state(State.CLAIMED, memberships), _M.receipt == receipt
        ).order_by(_M.id)

    def _close(
        self,
        c: Connection,
        rows: Sequence[Any],
        now: Millis,
        failed: Mapping[int, tuple[Problem, str]],
    ) -> None:
        def outcome(row: MembershipRow) -> Outcome:
            failure = None if row.position is None else failed.get(row.position)
            return Dead(row.id, *failure) if failure else Accepted(row.id, "")

        found = [MembershipRow._make(row) for row in rows]
        save(c, [after_outcome(row, outcome(row), now, horizon=0) for row in found])

    def _requeue_ambiguous(self, c: Connection, rows: Sequence[Any], now: Millis) -> None:
        save(c, [lost_with_job(MembershipRow._make(row), now) for row in rows])


# ── claims ───────────────────────────────────────────────────────────────────────────────────────


def _unlinked(row: MembershipRow) -> Held:
    return Held(row.id, Problem.NOT_LIVE, "its target is not linked any more")


class _ClaimedRow(NamedTuple):
    id: int
    email: str
    wanted: int
    profile_id: str | None
    platform_id: str | None
    lost_jobs: int
    since: Millis
    attempts: int
    change: int
    priority: int
    failing_since: Millis | None


def _entry(row: _ClaimedRow, remote_id: str) -> Entry:
    """The entry's data are the fields of a MembershipWrite."""
    change = Change(row.change)
    write = {
        "group": remote_id,
        "joins": change is Change.JOIN,
        "email": row.email,
        "profile_id": row.profile_id,
        "platform_id": row.platform_id,
        "lost_jobs": row.lost_jobs,
    }
    return Entry(
        seq=row.id,
        unique_id=f"membership:{row.id}",
        name=change.name.lower(),
        occurred_at=row.since,
        received_at=row.since,
        email=row.email,
        person=None,
        data=orjson.dumps(write),
        attempts=row.attempts,
        mode=DeliveryMode(change),
        mapping=None,
        backfill=bool(row.priority),
        failing_since=row.failing_since,
    )


def _not_in_flight() -> tuple[ColumnElement[bool], ...]:
    """No other write of the person's profile is in flight, neither of fields nor of another
    list."""
    writing = profiles.alias("writing")
    fields = select(literal(1)).where(
        writing.c.address == _M.address, in_state(State.CLAIMED, writing)
    )
    return (~is_joining_list(_M.address), ~exists(fields))


def _target_is_known() -> ColumnElement[bool]:
    """A list whose id is being looked up again gets nothing meanwhile. A target at a platform has
    no other id than its name."""
    unknown = select(literal(1)).where(
        groups.c.id == _M.target, groups.c.kind == "list", groups.c.remote_id.is_(None)
    )
    return ~exists(unknown)


_CONDITIONS = {
    DeliveryMode.BATCH: (*_not_in_flight(), _target_is_known()),
    DeliveryMode.SINGLE: (_target_is_known(),),
}
_CLAIMS = {
    mode: queue.ClaimStatement(
        memberships_queue,
        values={"sent": _M.wanted, "receipt": None, "position": None},
        returning=tuple(_M[name] for name in _ClaimedRow._fields),
        conditions=(*conditions, _M.target == param("target")),
    )
    for mode, conditions in _CONDITIONS.items()
}


def _first_target(c: Connection, spec: queue.ClaimSpec) -> int | None:
    """The target of the change that waits longest, live before backfill."""
    priorities = (0, 1) if spec.backfill is None else (int(spec.backfill),)
    for priority in priorities:
        waiting = and_(
            _M.lane == spec.lane,
            in_state(State.READY, memberships),
            _M.change == spec.mode,
            _M.priority == priority,
            _M.due <= spec.now,
            *_CONDITIONS[spec.mode],
        )
        query = select(_M.target).where(waiting).order_by(_M.due, _M.id).limit(1)
        target: int | None = c.execute(query).scalar()
        if target is not None:
            return target
    return None
