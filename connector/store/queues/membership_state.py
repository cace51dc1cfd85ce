"""The states of a membership row: one person on one target.

`wanted` and `confirmed` are IN or OUT; `confirmed` is NULL where it is unknown. `sent` is the
change in flight. A change is needed where `confirmed` is not `wanted`; a leave only for members
that the connector added, or for every one where the target's link removes foreign members.

    state     meaning
    ACCEPTED  no change is needed
    READY     a change waits for its lane
    CLAIMED   a change is in flight: in a request, or in an import job (`receipt`)
    HELD      FIRST_SYNC: the target receives no writes yet; REMOVED_BY_HAND: the member was removed
              on the remote side; KLAVIYO_TARGET: the remote side does not know the target;
              NOT_LIVE: the target is not linked any more
    DEAD      refused, or the retries are exhausted
    SKIPPED   not sent in shadow mode

    from                   to                     when, and where in the code
    (no row)               READY, HELD            a source has the person: add_wanted
    (no row)               ACCEPTED               the target lists a foreign member: save_listed
    all but CLAIMED        READY, HELD, ACCEPTED  a source has the person (again): add_wanted
    all but CLAIMED        READY, ACCEPTED        no source has the person any more: remove_wanted
    READY                  CLAIMED, HELD          SqlMembershipQueue.claim
    CLAIMED                CLAIMED                an import job holds the change: after_outcome
    CLAIMED                ACCEPTED, READY, HELD  confirmed; READY, HELD: `wanted` changed meanwhile
    CLAIMED                READY                  not sent, retried or ambiguous: after_outcome
    CLAIMED                DEAD, HELD, SKIPPED    after_outcome
    all but CLAIMED        ACCEPTED, READY, HELD  the target lists the person: save_listed
    all but CLAIMED        HELD, READY            missing in a read-back: save_manual_removals
    all but CLAIMED        (deleted)              neither wanted nor listed: save_manual_removals
    ACCEPTED               READY                  remove_foreign, resend_unconfirmed
    HELD, DEAD, SKIPPED    READY, HELD, ACCEPTED  a person or the target's state allows it: requeue

While a row is CLAIMED, add_wanted and remove_wanted change `wanted` only; what follows is decided
when the change is settled. Until `ambiguous_until` an ambiguous change may still be applied: the
row is not due before, whatever becomes known meanwhile, and no earlier read-back confirms anything.
So a leave never crosses a join (guarantee 5).

This module is pure; connector.store.queues.membership_changes writes the rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.memberships import Change
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
from connector.domain.records import State

IN, OUT = 1, 0
_AMBIGUOUS_WAIT = 30_000
"""ms in which the remote side may still apply a request that timed out here."""
NO_HORIZON = 1 << 60
"""Never give up: the retry horizon of a change that is retried through no fault of its own."""


class MembershipRow(NamedTuple):
    """A row of `memberships`, with the settings of its target."""

    id: int
    email: str
    wanted: int
    confirmed: int | None
    sent: int | None
    added_by_us: int
    unconfirmed: int
    lost_jobs: int
    ambiguous_until: int
    state: int
    priority: int
    due: int
    attempts: int
    failing_since: int | None
    position: int | None
    settled_at: int
    profile_id: str | None
    remove_foreign: int
    writes_enabled: int


_AT_REST: dict[str, Any] = {
    "claim": None,
    "receipt": None,
    "position": None,
    "sent": None,
    "problem": None,
    "detail": "",
    "attempts": 0,
    "failing_since": None,
}
"""The columns of a row that is not in flight."""


def with_next_change(
    row: MembershipRow, now: Millis, *, due: int | None = None, priority: int = 0, **changed: Any
) -> dict[str, Any]:
    """The row at rest, or ready (held, where its target receives no writes yet) where a change is
    needed. `changed` are columns that get a new value."""
    confirmed = changed.get("confirmed", row.confirmed)
    added_by_us = changed.get("added_by_us", row.added_by_us)
    needed = _change_needed(row, confirmed, added_by_us)
    held = needed and not row.writes_enabled
    return (
        _AT_REST
        | {
            "id": row.id,
            "state": State.HELD if held else State.READY if needed else State.ACCEPTED,
            "change": Change.JOIN if row.wanted else Change.LEAVE,
            "due": max(now if due is None else due, row.ambiguous_until),
            "priority": priority,
            "problem": Problem.FIRST_SYNC.value if held else None,
        }
        | changed
    )


def _change_needed(row: MembershipRow, confirmed: int | None, added_by_us: int) -> bool:
    if row.wanted:
        return confirmed != IN
    if added_by_us and confirmed != OUT:
        return True
    return bool(confirmed == IN and row.remove_foreign and row.writes_enabled)


def after_outcome(
    row: MembershipRow, outcome: Outcome, now: Millis, horizon: int
) -> dict[str, Any]:
    """The columns that change after an outcome. Raises ValueError for one that no sink of
    memberships may report."""
    match outcome:
        case Accepted():
            return _accepted(row, outcome, now)
        case Pending():
            return {
                "id": row.id,
                "receipt": outcome.receipt,
                "position": outcome.position,
                "request": outcome.request,
                "settled_at": now,
                **_maybe_added(row),
            }
        case Retry():
            return _retry_later(row, outcome, now, horizon, after=round(outcome.after * 1000))
        case Ambiguous():
            after = max(round(outcome.after * 1000), _AMBIGUOUS_WAIT)
            unknown = {
                "confirmed": None,
                "settled_at": now,
                "ambiguous_until": now + after,
                **_maybe_added(row),
            }
            return _retry_later(row, outcome, now, horizon, after=after, **unknown)
        case Unsent():
            again = with_next_change(row, now, due=row.due, priority=row.priority)
            return again | {"attempts": row.attempts - 1, "failing_since": row.failing_since}
        case Dead() | Held():
            if row.wanted != row.sent:
                return with_next_change(row, now)
            state = State.DEAD if isinstance(outcome, Dead) else State.HELD
            why = {"problem": outcome.problem.value, "detail": outcome.detail}
            return _AT_REST | {"id": row.id, "state": state, "settled_at": now, **why}
        case Skipped():
            return _AT_REST | {"id": row.id, "state": State.SKIPPED}
        case _:
            raise ValueError(f"a membership has no outcome {type(outcome).__name__}")


def _accepted(row: MembershipRow, outcome: Accepted, now: Millis) -> dict[str, Any]:
    """A leave counts as confirmed when it was accepted twice, even without a confirmation."""
    unconfirmed = not outcome.confirmed and bool(row.sent or not row.unconfirmed)
    next_change = with_next_change(
        row,
        now,
        confirmed=row.sent,
        added_by_us=row.sent,
        unconfirmed=int(unconfirmed),
        lost_jobs=0,
    )
    return next_change | {"settled_at": now, "request": outcome.request}


def _maybe_added(row: MembershipRow) -> dict[str, int]:
    """A join whose result is unknown may have added the member."""
    return {"added_by_us": IN} if row.sent else {}


def _retry_later(
    row: MembershipRow,
    outcome: Retry | Ambiguous,
    now: Millis,
    horizon: int,
    *,
    after: int,
    **changed: Any,
) -> dict[str, Any]:
    """Ready again after `after` ms, or dead where it has failed for `horizon` ms."""
    since = row.failing_since or now
    if now - since >= horizon:
        last = f"last: {outcome.problem} {outcome.detail}".strip()
        why = {"problem": Problem.RETRIES_EXHAUSTED.value, "detail": last, "settled_at": now}
        return _AT_REST | {"id": row.id, "state": State.DEAD} | why | changed
    again = with_next_change(row, now, due=now + after, priority=row.priority, **changed)
    if again["state"] != State.READY:
        return again
    why = {"problem": outcome.problem.value, "detail": outcome.detail}
    return again | why | {"attempts": row.attempts, "failing_since": since}


def lost_with_job(row: MembershipRow, now: Millis) -> dict[str, Any]:
    """After an import job without a result: ready again, to be sent in a smaller job, so that one
    address cannot block the others of its job for ever."""
    ambiguous = Ambiguous(row.id, Problem.JOB_LOST)
    return after_outcome(row, ambiguous, now, NO_HORIZON) | {"lost_jobs": row.lost_jobs + 1}
