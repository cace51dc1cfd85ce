"""Actions and their counts, for people and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    func,
    or_,
    select,
)

from connector.domain.actions import Step
from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis
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
            of = [lanes.c.connection == connection] if connection else []
            is_stuck = or_(in_state(State.HELD, actions), _is_ambiguous())
            beyond = [actions.c.seq < after.id] if after else []
            found = []
            if after is None or after.stuck:
                # "+ 0" keeps SQLite from walking all actions by seq instead of reading the index.
                newest = (actions.c.seq + 0).desc()
                query = _VIEWS.where(is_stuck, *of, *beyond).order_by(newest)
                found, beyond = _views(c, query.limit(limit)), []
            if not stuck and len(found) < limit:
                rest = _VIEWS.where(~is_stuck, *of, *beyond).order_by(actions.c.seq.desc())
                found += _views(c, rest.limit(limit - len(found)))
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


def _is_ambiguous() -> ColumnElement[bool]:
    """Sent with an unknown outcome: being looked up, or about to be."""
    either = or_(in_state(State.READY, actions), in_state(State.CLAIMED, actions))
    return and_(either, actions.c.step == Step.LOOK_UP)
