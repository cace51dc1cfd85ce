"""The state machine of an action (guarantee 4): what an outcome changes. Pure.

    READY, SEND ──claim──► CLAIMED ──► ACCEPTED · DEAD · HELD · certainly not applied: READY again
                              │
                  ambiguous outcome, or the holder died
                              ▼
                        READY, LOOK_UP ──► found: ACCEPTED · unknowable: HELD for a person
                         ▲    │
                         └────┤ absent, and more look-ups are scheduled
                              └ absent at the last: SEND once more; after that HELD for a person

docs/decisions/0013-actions.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from connector.domain.actions import Step
from connector.domain.errors import Problem
from connector.domain.lanes import Millis, Suppression
from connector.domain.outcomes import (
    Absent,
    Accepted,
    Ambiguous,
    Dead,
    Held,
    Outcome,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.records import State
from connector.store.queues import queue
from connector.store.tables import actions

Values = dict[str, Any]
"""Column → new value."""


class ActionRow(NamedTuple):
    """A stored action. The names are those of the columns."""

    seq: int
    origin: str
    name: str
    ref: str
    received_at: Millis
    person: int | None
    email: str | None
    customer: str | None
    amount: int
    data: bytes
    state: int
    step: int
    priority: int
    attempts: int
    failing_since: Millis | None
    claim: int | None
    forced: int
    suppressed: Suppression | None
    problem: str | None
    detail: str
    sent_at: Millis | None
    sent_with: str | None
    lookups: int
    resent: int
    settled_at: Millis | None
    platform_ref: str | None
    evidence: str | None
    decided_by: str | None


_NO_LOOK_UPS = "[connections.actions] look_ups is empty"

COLUMNS = tuple(actions.c[name] for name in ActionRow._fields)


def after_outcome(
    row: ActionRow, outcome: Outcome, now: Millis, horizon: int, look_ups: Sequence[int]
) -> Values:
    """What an outcome changes. `look_ups` are the delays of look-ups in ms after the send,
    `horizon` ms the time for which an action is retried."""
    match outcome:
        case Accepted():
            fields = {"request": outcome.request, "platform_ref": outcome.ref}
            known = {key: value for key, value in fields.items() if value}
            return queue.settled(State.ACCEPTED, now) | known
        case Skipped():
            skipped = queue.settled(State.SKIPPED, now) | {"detail": outcome.reason}
            return skipped | _clear_sent_mark(row)
        case Unsent():
            ready = {"state": State.READY, "claim": None, "attempts": row.attempts - 1}
            return ready | _clear_sent_mark(row)
        case Dead():
            problem, detail = outcome.problem.value, outcome.detail
            dead = {"problem": problem, "detail": detail, "request": outcome.request}
            return queue.settled(State.DEAD, now) | dead
        case Held(problem=Problem.ACTION_UNCERTAIN):
            return _parked(now, outcome.detail)
        case Held():
            why = {"problem": outcome.problem.value, "detail": outcome.detail}
            # Not held a second time for what a person has seen already.
            refused = bool(row.forced) and outcome.problem is Problem.ACTION_PERSON
            state = State.DEAD if refused else State.HELD
            return queue.settled(state, now) | why | _clear_sent_mark(row)
        case Retry():
            return _retry_later(row, outcome, now, horizon)
        case Ambiguous():
            return _mark_ambiguous(row, outcome, now, look_ups)
        case Absent():
            return _absent(row, now, look_ups)
        case _:
            raise ValueError(f"not an outcome of an action: {outcome}")


def _clear_sent_mark(row: ActionRow) -> Values:
    """Clear `sent_at`, unless an earlier attempt was sent."""
    return {} if row.step == Step.LOOK_UP or row.resent else {"sent_at": None}


def _retry_later(row: ActionRow, outcome: Retry, now: Millis, horizon: int) -> Values:
    """For an action that was certainly not applied, and for a look-up without an answer."""
    if outcome.grace is not None:
        return _retry_within_grace(row, outcome, now, outcome.grace)
    since = row.failing_since or now
    if now - since < horizon:
        return {
            "state": State.READY,
            "claim": None,
            "due": now + round(outcome.after * 1000),
            "failing_since": since,
            "problem": outcome.problem.value,
            "detail": outcome.detail,
        } | _clear_sent_mark(row)
    last = f"last: {outcome.problem} {outcome.detail}".strip()
    if row.step == Step.LOOK_UP:
        return _parked(now, f"no look-up was answered; {last}")
    exhausted = {"problem": Problem.RETRIES_EXHAUSTED.value, "detail": last}
    return queue.settled(State.DEAD, now) | exhausted | _clear_sent_mark(row)


def _retry_within_grace(row: ActionRow, outcome: Retry, now: Millis, grace: int) -> Values:
    """For an action whose person is not known to the platform yet: the grace begins with the first
    answer that says so, and the last attempt is made when it ends."""
    repeated = row.problem == outcome.problem.value
    since = row.failing_since if repeated and row.failing_since is not None else now
    why = {"problem": outcome.problem.value, "detail": outcome.detail}
    if now - since >= grace:
        return queue.settled(State.DEAD, now) | why | _clear_sent_mark(row)
    due = min(now + round(outcome.after * 1000), since + grace)
    ready = {"state": State.READY, "claim": None, "due": due, "failing_since": since}
    return ready | why | _clear_sent_mark(row)


def _mark_ambiguous(
    row: ActionRow, outcome: Ambiguous, now: Millis, look_ups: Sequence[int]
) -> Values:
    why = {"problem": outcome.problem.value, "detail": outcome.detail, "request": outcome.request}
    if not look_ups:
        return _parked(now, f"{outcome.problem.meaning}; {_NO_LOOK_UPS}")
    if row.step == Step.LOOK_UP:  # the look-up itself was interrupted
        return {"state": State.READY, "claim": None, "due": now + round(outcome.after * 1000)}
    return _schedule_look_up(row, 0, now, look_ups) | why


def _absent(row: ActionRow, now: Millis, look_ups: Sequence[int]) -> Values:
    if not look_ups:
        # Looked up once all the same: it was interrupted, or they were configured until now.
        return _parked(now, f"not found at the platform; {_NO_LOOK_UPS}")
    lookups = row.lookups + 1
    if lookups < len(look_ups):
        return _schedule_look_up(row, lookups, now, look_ups)
    if row.resent:
        return _parked(now, "sent twice, and not found at the platform after either time")
    return queue.RESET | {
        "state": State.READY,
        "step": Step.SEND,
        "lookups": lookups,
        "resent": 1,
        "due": now,
        "attempts": 0,
        "failing_since": None,
    }


def _schedule_look_up(row: ActionRow, lookups: int, now: Millis, look_ups: Sequence[int]) -> Values:
    sent = row.sent_at if row.sent_at is not None else now
    return {
        "state": State.READY,
        "claim": None,
        "step": Step.LOOK_UP,
        "lookups": lookups,
        "due": max(now, sent + look_ups[lookups]),
        "attempts": 0,
        "failing_since": None,
    }


def _parked(now: Millis, detail: str) -> Values:
    problem = {"problem": Problem.ACTION_UNCERTAIN.value, "detail": detail}
    return queue.settled(State.HELD, now) | problem


def late_answer(outcome: Outcome, now: Millis) -> Values:
    """For an outcome of a holder that has lost its claim: kept as evidence, settles nothing."""
    problem = getattr(outcome, "problem", None)
    fields = {
        "at": now,
        "answer": type(outcome).__name__.lower(),
        "problem": problem.value if problem else None,
        "request": getattr(outcome, "request", None),
    }
    return {"evidence": orjson.dumps(fields).decode()}
