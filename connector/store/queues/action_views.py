"""Actions as a person sees them, and what he may say of them."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import select

from connector.domain.actions import Step
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.records import State
from connector.ports import ActionState, ActionView, Decision
from connector.store.queues import queue
from connector.store.tables import actions, lanes


def apply_decision(row: Any, word: Decision, now: Millis) -> dict[str, Any] | str:
    state = state_of(row)
    if row.state == State.CLAIMED:
        return "is on its way right now: ask again in a moment"
    match word:
        case "applied" if state == "uncertain":
            return queue.settled(State.ACCEPTED, now)
        case "again" if row.state in (State.HELD, State.DEAD):
            fresh = {
                "state": State.READY,
                "step": Step.SEND,
                "lookups": 0,
                "resent": 0,
                "attempts": 0,
            }
            return queue.RESET | fresh | {"failing_since": None, "due": now}
        case "refuse" if row.state in (State.HELD, State.READY):
            return discarded(now)
        case _:
            return f"is {state}: `{word}` cannot be said of it"


def discarded(now: Millis) -> dict[str, Any]:
    return queue.settled(State.DISCARDED, now)


ACTION_VIEWS = select(actions, lanes.c.connection).join(lanes, lanes.c.id == actions.c.lane)
_STATES: dict[int, ActionState] = {
    State.READY: "waiting",
    State.CLAIMED: "sending",
    State.ACCEPTED: "applied",
    State.SKIPPED: "skipped",
    State.HELD: "held",
    State.DEAD: "refused",
    State.DISCARDED: "discarded",
}


def state_of(row: Any) -> ActionState:
    """Where an action stands, in a person's words."""
    ambiguous = row.state in (State.READY, State.CLAIMED) and row.step == Step.LOOK_UP
    if ambiguous or (row.state == State.HELD and row.problem == Problem.ACTION_UNCERTAIN.value):
        return "uncertain"
    return _STATES[row.state]


def action_view_of(row: Any) -> ActionView:
    data = orjson.loads(row.data)
    return ActionView(
        id=row.seq,
        connection=row.connection,
        name=row.name,
        origin=row.origin,
        person=row.email or row.customer or "",
        amount=row.amount,
        reason=data.get("reason") or data.get("message") or "",
        state=state_of(row),
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
