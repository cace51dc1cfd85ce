"""Actions and their counts, for people and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    func,
    literal_column,
    or_,
    select,
)

from connector.domain.actions import Step
from connector.domain.errors import Problem
from connector.domain.lanes import ACTIONS, LaneId, Millis
from connector.domain.records import State
from connector.ports import ActionPosition, ActionState, ActionView, Throughput
from connector.store import counters
from connector.store.database import Database
from connector.store.queues.action_state import COLUMNS, ActionRow
from connector.store.tables import actions, in_state, lanes, requests

_STATES: dict[int, ActionState] = {
    State.READY: "waiting",
    State.CLAIMED: "sending",
    State.ACCEPTED: "applied",
    State.SKIPPED: "skipped",
    State.HELD: "held",
    State.DEAD: "refused",
    State.DISCARDED: "discarded",
}


class SqlActionViews:
    """connector.ports.ActionViews."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self,
        *,
        connection: str | None = None,
        stuck: bool = False,
        after: ActionPosition | None = None,
        limit: int = 100,
    ) -> Sequence[ActionView]:
        def work(c: Connection) -> list[ActionView]:
            of: list[ColumnElement[bool]] = []
            if connection:
                mine = select(lanes.c.id).where(
                    lanes.c.connection == connection, lanes.c.kind == ACTIONS.kind
                )
                of = [actions.c.lane == (c.execute(mine).scalar() or 0)]
            beyond = [actions.c.seq < after.id] if after else []
            found: list[ActionView] = []
            if after is None or after.stuck:
                found, beyond = _stuck(c, [*of, *beyond], limit), []
            if not stuck and len(found) < limit:
                found += _others(c, [*of, *beyond], limit - len(found))
            return found

        return await self._database.read(work)

    async def uncertain(self) -> Mapping[str, int]:
        parked = State.HELD, Problem.ACTION_UNCERTAIN.value

        def work(c: Connection) -> dict[str, int]:
            by_lane: Counter[int] = Counter()
            for lane, counted in counters.load_queue(c, "actions").items():
                by_lane[lane] += counted.stuck.get(parked, 0)
            for (lane, _, step), rows in counters.load_steps(c).items():
                if step is Step.LOOK_UP:
                    by_lane[lane] += rows
            query = select(lanes.c.id, lanes.c.connection).where(lanes.c.id.in_(list(by_lane)))
            found: Counter[str] = Counter()
            for lane, connection in c.execute(query):
                found[connection] += by_lane[lane]
            return {connection: rows for connection, rows in found.items() if rows}

        return await self._database.read(work)

    async def throughput(self, lane: LaneId, *, now: Millis) -> Throughput:
        recent = select(func.count(), func.min(requests.c.sent_at)).where(
            requests.c.lane == lane, requests.c.sent_at > now - 60_000
        )

        def work(c: Connection) -> Throughput:
            sent, first = c.execute(recent).one()
            seconds = max(1.0, (now - first) / 1000) if sent else 1.0
            waiting = counters.load_steps(c)[lane, State.READY, Step.SEND]
            return Throughput(waiting, sent / seconds)

        return await self._database.read(work)


_VIEWS = select(lanes.c.connection, *COLUMNS).join(lanes, lanes.c.id == actions.c.lane)


def view(c: Connection, id: int) -> ActionView:
    """The action with this id, which must exist."""
    [found] = _views(c, _VIEWS.where(actions.c.seq == id))
    return found


def _views(c: Connection, query: Select[Any]) -> list[ActionView]:
    return [_view(row[0], ActionRow._make(row[1:])) for row in c.execute(query)]


def _view(connection: str, row: ActionRow) -> ActionView:
    data = orjson.loads(row.data)
    return ActionView(
        id=row.seq,
        connection=connection,
        name=row.name,
        origin=row.origin,
        person=row.email or row.customer or "",
        amount=row.amount,
        reason=data.get("reason") or data.get("message") or "",
        state=state_of(row.state, row.step, row.problem),
        problem=row.problem,
        detail=row.detail,
        ref=row.ref,
        platform_ref=row.platform_ref,
        received_at=row.received_at,
        sent_at=row.sent_at,
        settled_at=row.settled_at,
        lookups=row.lookups,
        resent=bool(row.resent),
        evidence=row.evidence,
        decided_by=row.decided_by,
    )


def state_of(state: int, step: int, problem: str | None) -> ActionState:
    """The state for people, from the columns of an action."""
    ambiguous = state in (State.READY, State.CLAIMED) and step == Step.LOOK_UP
    if ambiguous or (state == State.HELD and problem == Problem.ACTION_UNCERTAIN.value):
        return "uncertain"
    return _STATES[state]


def _stuck(c: Connection, of: list[ColumnElement[bool]], limit: int) -> list[ActionView]:
    """The newest held and ambiguous actions."""
    seqs: list[int] = []
    for condition, index in (
        (in_state(State.HELD, actions), "actions_stuck_by_seq"),
        (_IS_AMBIGUOUS, "actions_uncertain"),
    ):
        # "+ 0" lets SQLite only filter by these, in the order of the index.
        these = [each.operator(each.left + 0, each.right) for each in cast(Any, of)]
        page = select(actions.c.seq).where(condition, *these).order_by(actions.c.seq.desc())
        page = page.with_hint(actions, f"INDEXED BY {index}", "sqlite")
        seqs += c.execute(page.limit(limit)).scalars()
    return _in_order(c, sorted(seqs, reverse=True)[:limit])


def _others(c: Connection, of: list[ColumnElement[bool]], limit: int) -> list[ActionView]:
    """The newest of those that are neither held nor ambiguous."""
    found: list[int] = []
    is_stuck = or_(in_state(State.HELD, actions), _IS_AMBIGUOUS)
    page = select(actions.c.seq, is_stuck).order_by(actions.c.seq.desc()).limit(limit)
    beyond: list[ColumnElement[bool]] = []
    while len(found) < limit:
        rows = c.execute(page.where(*of, *beyond)).all()
        found += [seq for seq, stuck in rows if not stuck]
        if len(rows) < limit:
            break
        beyond = [actions.c.seq < rows[-1][0]]
    return _in_order(c, found[:limit])


def _in_order(c: Connection, seqs: Sequence[int]) -> list[ActionView]:
    found = _views(c, _VIEWS.where(actions.c.seq.in_(seqs)))
    return sorted(found, key=lambda view: -view.id)


_IS_AMBIGUOUS: ColumnElement[bool] = literal_column(
    f"(actions.state IN (0, 1) AND actions.step = {int(Step.LOOK_UP)})"
)
"""Sent with an unknown outcome: being looked up, or about to be."""
