"""Ends of uncertain and held actions: by a person, by a decided cap, by a person who becomes known,
by a lane that sends again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, Select, literal_column, select, update

from connector.domain.actions import Caps, Step
from connector.domain.errors import Problem
from connector.domain.lanes import Lane, Millis
from connector.domain.records import State
from connector.ports import ActionView, Approval, Decision
from connector.store.admin import approvals
from connector.store.database import Database
from connector.store.pieces import Pieces
from connector.store.prepared import Prepared, param
from connector.store.queues import queue
from connector.store.queues.action_caps import CAP, CAPS, CapCounter, held, request_approvals
from connector.store.queues.action_state import COLUMNS, ActionRow, Values
from connector.store.queues.action_views import state_of, view
from connector.store.statements import chunks
from connector.store.tables import actions, lanes

_MOST_RELEASED = 1_000
"""Actions that one transaction releases."""


class _HeldRow(NamedTuple):
    """A held action. The names are those of the columns."""

    seq: int
    name: str
    amount: int
    person_key: bytes
    forced: int


_LOCK = Prepared(select(lanes.c.id).where(lanes.c.id == param("lane")).with_for_update())
_HELD = select(*(actions.c[name] for name in _HeldRow._fields)).order_by(actions.c.seq)
_RELEASED = (
    _HELD.where(held(param("lane"), param("problem")))
    .limit(param("most", type_=Integer))
    .with_for_update()
)
_RELEASABLE = actions.c.releasable == literal_column("1")  # a partial index has no parameters


def _by(index: str, query: Select[Any]) -> Prepared:
    """The query by this index: SQLite might walk all actions of the lane."""
    return Prepared(query.with_hint(actions, f"INDEXED BY {index}", "sqlite"))


_WAITING = _by("actions_stuck", _RELEASED)
_CAPPED = _by("actions_stuck", _RELEASED.where(actions.c.settled_at <= param("until")))
_IDENTIFIED = _by("actions_releasable", _RELEASED.where(_RELEASABLE))
_ANY_IDENTIFIED = (
    select(actions.c.seq)
    .where(held(lanes.c.id, Problem.ACTION_PERSON.value), _RELEASABLE)
    .with_hint(actions, "INDEXED BY actions_releasable", "sqlite")
    .exists()
)
_WITH_IDENTIFIED = Prepared(select(lanes.c.connection).where(_ANY_IDENTIFIED))


class SqlActionDecisions:
    """connector.ports.ActionDecisions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._released = Pieces(database, _MOST_RELEASED)

    async def decide(
        self, id: int, decision: Decision, *, by: str, now: Millis
    ) -> ActionView | str:
        def work(c: Connection) -> ActionView | str:
            locked = select(*COLUMNS).where(actions.c.seq == id).with_for_update()
            found = c.execute(locked).one_or_none()
            if found is None:
                return f"there is no action {id}"
            values = _decided(ActionRow._make(found), decision, now)
            if isinstance(values, str):
                return f"action {id} {values}"
            values |= {"decided_by": by, "decided_at": now}
            c.execute(update(actions).where(actions.c.seq == id).values(values))
            return view(c, id)

        return await self._database.write(work)

    async def releasable(self) -> Collection[str]:
        def work(c: Connection) -> set[str]:
            identified = [name for (name,) in _WITH_IDENTIFIED.rows(c)]
            return {*identified, *approvals.decided(c, CAP)}

        # Asked every few seconds and mostly in vain, so it does not wait for the writer.
        return await self._database.read(work, brief=True)

    async def resolve_cap(self, lane: Lane, approval: Approval, *, caps: Caps, now: Millis) -> int:
        approved, cap = approval.state == "approved", approval.subject
        until = approval.decided_at if approval.decided_at is not None else now
        decision = {"decided_by": approval.decided_by, "decided_at": until}
        theirs = {"lane": lane.id, "problem": CAPS[cap].value, "until": until}

        def part(c: Connection, after: int, rows: int) -> tuple[int, int | None]:
            _lock(c, lane)
            found = [*map(_HeldRow._make, _CAPPED.rows(c, **theirs, most=rows))]
            if approved:
                changed = _release(c, lane, found, caps, now, approved=cap, also=decision)
            else:
                changed = len(found)
                _update(c, [row.seq for row in found], _discarded(now) | decision)
            if len(found) == rows:
                return changed, after
            # Last: until then the decision is still to be carried out.
            approvals.close(c, lane.connection, CAP, cap)
            request_approvals(c, lane, {cap}, now)
            return changed, None

        return await self._released.each(part, 0)

    async def release_identified(self, lane: Lane, *, caps: Caps, now: Millis) -> int:
        return await self._release(_IDENTIFIED, lane, Problem.ACTION_PERSON, caps, now)

    async def release_waiting(self, lane: Lane, *, caps: Caps, now: Millis) -> int:
        return await self._release(_WAITING, lane, Problem.NOT_LIVE, caps, now)

    async def _release(
        self, which: Prepared, lane: Lane, problem: Problem, caps: Caps, now: Millis
    ) -> int:
        """A part after the other, so that a large number does not block the store for long."""

        def part(c: Connection, after: int, rows: int) -> tuple[int, int | None]:
            _lock(c, lane)
            found = which.rows(c, lane=lane.id, problem=problem.value, most=rows)
            released = _release(c, lane, [*map(_HeldRow._make, found)], caps, now) if found else 0
            return released, after if len(found) == rows else None

        return await self._released.each(part, 0)


def _lock(c: Connection, lane: Lane) -> None:
    """Callers on one lane take turns, so that caps hold across processes."""
    _LOCK.rows(c, lane=lane.id)


def _release(
    c: Connection,
    lane: Lane,
    rows: Sequence[_HeldRow],
    caps: Caps,
    now: Millis,
    *,
    approved: str | None = None,
    also: Values | None = None,
) -> int:
    """Make held actions ready, within the caps: what exceeds one is held by it instead. Not
    held again is what a person decided about: a forced action, and the cap `approved`. Returns how
    many are ready."""
    keys = {bytes(row.person_key) for row in rows}
    counter = CapCounter.load(c, lane.id, caps, keys, now)
    released: list[int] = []
    exceeded: dict[str, list[int]] = {}
    for row in rows:
        key = bytes(row.person_key)
        cap = counter.admit(row.name, row.amount, key, ignore=approved)
        if cap and not row.forced:
            exceeded.setdefault(cap, []).append(row.seq)
        else:
            released.append(row.seq)
    _update(c, released, _released(now) | (also or {}))
    for cap, seqs in exceeded.items():
        _update(c, seqs, {"problem": CAPS[cap].value, "releasable": 0, "settled_at": now})
    request_approvals(c, lane, set(exceeded), now)
    return len(released)


def _update(c: Connection, seqs: Sequence[int], values: Values) -> None:
    for part in chunks(seqs):
        c.execute(update(actions).where(actions.c.seq.in_(part)).values(values))


def _decided(row: ActionRow, decision: Decision, now: Millis) -> Values | str:
    """What a decision changes, or why it is not possible."""
    state = state_of(row.state, row.step, row.problem)
    if row.state == State.CLAIMED:
        return "is being sent or looked up right now: try again in a moment"
    match decision:
        case "applied" if state == "uncertain":
            return queue.settled(State.ACCEPTED, now)
        case "again" if row.state in (State.HELD, State.DEAD):
            fresh: dict[str, Any] = {"step": Step.SEND, "lookups": 0, "resent": 0}
            return _released(now) | fresh | {"forced": 1}
        case "refuse" if row.state in (State.HELD, State.READY):
            return _discarded(now)
        case _:
            return f"is {state}: `{decision}` is not possible"


def _released(now: Millis) -> Values:
    fresh = {"attempts": 0, "failing_since": None, "releasable": 0}
    return queue.RESET | fresh | {"state": State.READY, "due": now, "counted_at": now}


def _discarded(now: Millis) -> Values:
    return queue.settled(State.DISCARDED, now) | {"releasable": 0}
