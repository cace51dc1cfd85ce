"""Rows of the outbox, and what an outcome makes of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Select

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Millis, Suppression
from connector.domain.outcomes import Ambiguous, Dead, Held, Outcome, Retry, Skipped, Unsent
from connector.domain.records import Entry, State
from connector.store.queues.queue import settled
from connector.store.tables import outbox

Values = dict[str, Any]
"""Column → new value."""
_MODES = tuple(DeliveryMode)


class OutboxRow(NamedTuple):
    """A stored record. The names are those of the columns."""

    seq: int
    unique_id: str
    name: str
    occurred_at: Millis
    received_at: Millis
    email: str | None
    person: int | None
    data: bytes
    attempts: int
    delivery_mode: int
    mapping: str | None
    priority: int
    failing_since: Millis | None
    suppressed: Suppression | None

    def entry(self) -> Entry:
        return Entry(
            seq=self.seq,
            unique_id=self.unique_id,
            name=self.name,
            occurred_at=self.occurred_at,
            received_at=self.received_at,
            email=self.email,
            person=self.person,
            data=self.data,
            attempts=self.attempts,
            mode=_MODES[self.delivery_mode],
            mapping=self.mapping,
            backfill=bool(self.priority),
            failing_since=self.failing_since,
            suppressed=self.suppressed,
        )


def by_stuck_index(query: Select[Any]) -> Select[Any]:
    """The query, which has the condition of stuck rows, in the order of `seq` by their index:
    SQLite would walk all rows."""
    return query.with_hint(outbox, "INDEXED BY outbox_stuck_by_seq", "sqlite")


COLUMNS = tuple(outbox.c[name] for name in OutboxRow._fields)


def after_outcome(entry: Entry, outcome: Outcome, now: Millis, horizon: int) -> Values:
    """Every outcome of a record but Accepted."""
    match outcome:
        case Skipped():
            return settled(State.SKIPPED, now) | {"detail": outcome.reason}
        case Held():
            problem = outcome.problem.value
            return settled(State.HELD, now) | {"problem": problem, "detail": outcome.detail}
        case Dead():
            return settled(State.DEAD, now) | {
                "problem": outcome.problem.value,
                "detail": outcome.detail,
                "request": outcome.request,
            }
        case Unsent():
            return {
                "state": State.READY,
                "claim": None,
                "attempts": entry.attempts - 1,
                "mapping": _first_mapping(entry, entry.mode),
            }
        case Retry() | Ambiguous():
            return _retry_later(entry, outcome, now, horizon)
        case _:
            raise AssertionError(f"no outcome of a record: {outcome}")


def _retry_later(entry: Entry, outcome: Retry | Ambiguous, now: Millis, horizon: int) -> Values:
    since = entry.failing_since or now
    mode = DeliveryMode.SINGLE if isinstance(outcome, Ambiguous) else entry.mode
    if now - since >= horizon:
        return settled(State.DEAD, now) | {
            "problem": Problem.RETRIES_EXHAUSTED.value,
            "detail": f"last: {outcome.problem} {outcome.detail}".strip(),
            "delivery_mode": mode,
        }
    return {
        "state": State.READY,
        "claim": None,
        "due": now + round(outcome.after * 1000),
        "failing_since": since,
        "problem": outcome.problem.value,
        "detail": outcome.detail,
        "delivery_mode": mode,
        "mapping": _first_mapping(entry, mode),
    }


def _first_mapping(entry: Entry, mode: DeliveryMode) -> str | None:
    """An entry that may have been applied keeps the mapping version it was first sent with."""
    return entry.mapping if mode is DeliveryMode.SINGLE else None
