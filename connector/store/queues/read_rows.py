"""Rows of reads, and what an outcome makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, select

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.outcomes import (
    Ambiguous,
    Dead,
    Gone,
    Held,
    Observed,
    Outcome,
    Retry,
    Skipped,
)
from connector.domain.records import Entry, State
from connector.store.people.identifiers import PersonRow
from connector.store.prepared import Prepared, param
from connector.store.tables import in_state, reads

Values = dict[str, Any]
"""Column → new value."""


class ReadRow(NamedTuple):
    """A stored read. The names are those of the columns."""

    person: int
    requested_at: Millis
    sent_at: Millis
    due: Millis
    attempts: int
    failing_since: Millis | None
    view: bytes | None
    view_at: Millis | None
    refetch: int
    priority: int

    def entry(self, person: PersonRow, now: Millis) -> Entry:
        return Entry(
            seq=self.person,
            unique_id=person.platform_id or "",
            name="refetch" if self.refetch else "read",
            occurred_at=now,
            received_at=self.requested_at,
            email=person.email,
            person=self.person,
            data=self.view or b"",
            attempts=self.attempts,
            mode=DeliveryMode.BATCH,
            mapping=None,
            backfill=bool(self.priority),
            failing_since=self.failing_since,
        )


COLUMNS = tuple(reads.c[name] for name in ReadRow._fields)


def lock(c: Connection, people: Sequence[int], token: int) -> dict[int, ReadRow]:
    """The rows that this claim still holds, locked: what is read here is written back, and no event
    may request another read in between."""
    rows = map(ReadRow._make, _LOCK.rows(c, people=people, token=token))
    return {row.person: row for row in rows}


_LOCK = Prepared(
    select(*COLUMNS)
    .where(
        reads.c.person.in_(param("people", expanding=True)),
        in_state(State.CLAIMED, reads),
        reads.c.claim == param("token"),
    )
    .order_by(reads.c.person)
    .with_for_update(),
    many="people",
)


def after_outcome(row: ReadRow, outcome: Outcome, now: Millis, horizon: int) -> Values:
    """A read that was requested again while it was in flight is ready again."""
    match outcome:
        case Observed() | Gone():
            values = _after_answer(row, outcome, now)
        case Retry() | Ambiguous():
            since = row.failing_since or now
            exhausted = now - since >= horizon
            values = {
                "state": State.DEAD if exhausted else State.READY,
                "due": now + round(outcome.after * 1000),
                "failing_since": since,
                "problem": Problem.RETRIES_EXHAUSTED.value if exhausted else outcome.problem.value,
                "detail": outcome.detail,
            }
        case Dead() | Held():
            values = {
                "state": State.DEAD if isinstance(outcome, Dead) else State.HELD,
                "problem": outcome.problem.value,
                "detail": outcome.detail,
            }
        case Skipped():
            values = {"state": State.ACCEPTED}
        case _:
            values = {"state": State.READY, "attempts": row.attempts - 1}
    return values | {"claim": None}


def _after_answer(row: ReadRow, outcome: Observed | Gone, now: Millis) -> Values:
    again = row.requested_at > row.sent_at
    values: Values = {
        "state": State.READY if again else State.ACCEPTED,
        "due": row.due if again else row.sent_at,
        "attempts": 0,
        "failing_since": None,
        "problem": None,
        "detail": "",
    }
    if isinstance(outcome, Observed):
        values |= {
            "view": orjson.dumps(outcome.observation.view),
            "view_at": outcome.observation.at,
            "refetch": row.refetch if again else 0,
        }
    return values
