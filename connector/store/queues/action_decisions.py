"""Ends of uncertain and held actions: by a person, by a decided cap, by a person seen at last."""

from __future__ import annotations

from sqlalchemy import Connection, and_, exists, or_, select, update

from connector.domain.actions import Step
from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.records import State
from connector.ports import ActionView, Approval, Decision
from connector.store.admin import approvals
from connector.store.database import Database
from connector.store.queues import queue
from connector.store.queues.action_caps import CAP, CAPS, held, request_approvals
from connector.store.queues.action_state import COLUMNS, ActionRow, Values
from connector.store.queues.action_views import state_of, view
from connector.store.tables import actions, lanes, people


class SqlActionDecisions:
    """connector.ports.ActionDecisions."""

    def __init__(self, database: Database) -> None:
        self._database = database

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

    async def resolve_cap(self, lane: Lane, approval: Approval, *, now: Millis) -> int:
        approved = approval.state == "approved"
        until = approval.decided_at if approval.decided_at is not None else now
        values = _released(now) if approved else _discarded(now)

        def work(c: Connection) -> int:
            changed = c.execute(
                update(actions)
                .where(held(lane.id, CAPS[approval.subject]), actions.c.received_at <= until)
                .values(values | {"decided_by": approval.decided_by, "decided_at": until})
            ).rowcount
            approvals.close(c, lane.connection, CAP, approval.subject)
            request_approvals(c, lane, {approval.subject}, now)
            return changed

        return await self._database.write(work)

    async def release_identified(self, lane: LaneId, *, now: Millis) -> int:
        seen_since = and_(
            people.c.connection == lanes.c.connection,
            people.c.seen_at >= actions.c.settled_at,
            people.c.platform_id.is_not(None),
            or_(people.c.email == actions.c.email, people.c.platform_id == actions.c.customer),
        )
        statement = (
            update(actions)
            .where(
                held(lane, Problem.ACTION_PERSON),
                exists(select(1).where(seen_since, lanes.c.id == actions.c.lane)),
            )
            .values(_released(now))
        )
        return await self._database.write(lambda c: c.execute(statement).rowcount)


def _decided(row: ActionRow, decision: Decision, now: Millis) -> Values | str:
    """What a decision changes, or why it is not possible."""
    state = state_of(row.state, row.step, row.problem)
    if row.state == State.CLAIMED:
        return "is being sent or looked up right now: try again in a moment"
    match decision:
        case "applied" if state == "uncertain":
            return queue.settled(State.ACCEPTED, now)
        case "again" if row.state in (State.HELD, State.DEAD):
            fresh = {"step": Step.SEND, "lookups": 0, "resent": 0}
            return _released(now) | fresh | {"attempts": 0, "failing_since": None}
        case "refuse" if row.state in (State.HELD, State.READY):
            return _discarded(now)
        case _:
            return f"is {state}: `{decision}` is not possible"


def _released(now: Millis) -> Values:
    return queue.RESET | {"state": State.READY, "due": now}


def _discarded(now: Millis) -> Values:
    return queue.settled(State.DISCARDED, now)
