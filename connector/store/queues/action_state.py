"""What an outcome makes of an action: the state machine of promise 4. Pure;
connector.store.queues.actions draws it and writes what is decided here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from connector.domain.actions import Step
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
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


def after_outcome(
    row: Any, outcome: Outcome, now: Millis, horizon: int, look_ups: Sequence[int]
) -> dict[str, Any]:
    """What an outcome makes of an action. `row` has the columns of _locked."""
    match outcome:
        case Accepted():
            fields = {"request": outcome.request, "platform_ref": outcome.ref}
            known = {key: value for key, value in fields.items() if value}
            return queue.settled(State.ACCEPTED, now) | known
        case Skipped():
            return (
                queue.settled(State.SKIPPED, now)
                | {"detail": outcome.reason}
                | _clear_sent_mark(row)
            )
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
            return queue.settled(State.HELD, now) | why | _clear_sent_mark(row)
        case Retry():
            return _retry_later(row, outcome, now, horizon)
        case Ambiguous():
            return _mark_ambiguous(row, outcome, now, look_ups)
        case Absent():
            return _absent(row, now, look_ups)
        case _:
            raise AssertionError(f"no outcome of an action: {outcome}")


def _clear_sent_mark(row: Any) -> dict[str, Any]:
    """The mark "sent" is taken back, unless an earlier attempt has left it."""
    return {} if row.step == Step.LOOK_UP or row.resent else {"sent_at": None}


def _retry_later(row: Any, outcome: Retry, now: Millis, horizon: int) -> dict[str, Any]:
    """Certainly not applied, or a look-up that got no answer: one more try, until the horizon."""
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


def _mark_ambiguous(
    row: Any, outcome: Ambiguous, now: Millis, look_ups: Sequence[int]
) -> dict[str, Any]:
    why = {"problem": outcome.problem.value, "detail": outcome.detail, "request": outcome.request}
    if not look_ups:
        return _parked(now, f"{outcome.problem.meaning}; look_ups names no time to look it up")
    if row.step == Step.LOOK_UP:  # a look-up was cut off
        return {"state": State.READY, "claim": None, "due": now + round(outcome.after * 1000)}
    return _schedule_look_up(row, 0, now, look_ups) | why


def _absent(row: Any, now: Millis, look_ups: Sequence[int]) -> dict[str, Any]:
    looks = row.lookups + 1
    if looks < len(look_ups):
        return _schedule_look_up(row, looks, now, look_ups)
    if row.resent:
        return _parked(now, "sent twice, and not found at the platform after either time")
    return queue.RESET | {
        "state": State.READY,
        "step": Step.SEND,
        "lookups": looks,
        "resent": 1,
        "due": now,
        "attempts": 0,
        "failing_since": None,
    }


def _schedule_look_up(row: Any, looks: int, now: Millis, look_ups: Sequence[int]) -> dict[str, Any]:
    sent = row.sent_at if row.sent_at is not None else now
    return {
        "state": State.READY,
        "claim": None,
        "step": Step.LOOK_UP,
        "lookups": looks,
        "due": max(now, sent + look_ups[looks]),
        "attempts": 0,
        "failing_since": None,
    }


def _parked(now: Millis, detail: str) -> dict[str, Any]:
    problem = {"problem": Problem.ACTION_UNCERTAIN.value, "detail": detail}
    return queue.settled(State.HELD, now) | problem


def late_answer(outcome: Outcome, now: Millis) -> dict[str, Any]:
    """An answer to somebody who has lost the action meanwhile: it settles nothing, and a person
    who has to decide may see it."""
    problem = getattr(outcome, "problem", None)
    fields = {
        "at": now,
        "answer": type(outcome).__name__.lower(),
        "problem": problem.value if problem else None,
        "request": getattr(outcome, "request", None),
    }
    return {"evidence": orjson.dumps(fields).decode()}
