"""Dead and held records: listed by cause, shown whole, retried or discarded by order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Connection, func, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import Kind, Millis
from connector.domain.outcomes import Request
from connector.domain.records import State
from connector.ports import DeadLetter, DeadLetterDetail
from connector.store.database import Database
from connector.store.queues.outbox import ENTRY_COLUMNS, entry_of
from connector.store.tables import is_stuck, lanes, memberships, outbox, profiles, requests

_DEAD_LETTER = (
    outbox.c.seq,
    lanes.c.connection,
    lanes.c.destination,
    lanes.c.kind,
    outbox.c.state,
    outbox.c.name,
    outbox.c.unique_id,
    outbox.c.problem,
    outbox.c.detail,
    outbox.c.attempts,
    outbox.c.received_at,
    outbox.c.settled_at,
)


class SqlDeadLetters:
    """connector.ports.DeadLetters."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def groups(self) -> Sequence[tuple[str, State, str, int]]:
        def work(c: Connection) -> list[tuple[str, State, str, int]]:
            found: dict[tuple[str, State, str], int] = {}
            for table in (outbox, profiles, memberships):
                keys = (lanes.c.connection, table.c.state, table.c.problem)
                query = (
                    select(*keys, func.count())
                    .join(lanes, lanes.c.id == table.c.lane)
                    .where(is_stuck(table))
                    .group_by(*keys)
                )
                for connection, state, problem, count in c.execute(query):
                    key = (connection, State(state), problem or "")
                    found[key] = found.get(key, 0) + count
            groups = [(*key, count) for key, count in found.items()]
            return sorted(groups, key=lambda group: (-group[3], group[0], group[2]))

        return await self._database.read(work)

    async def find(
        self, *, problem: str | None = None, connection: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetter]:
        def work(c: Connection) -> list[DeadLetter]:
            query = (
                select(*_DEAD_LETTER)
                .join(lanes, lanes.c.id == outbox.c.lane)
                .where(is_stuck(outbox))
                .order_by((outbox.c.seq + 0).desc())  # by the index of what is stuck, not all rows
                .limit(limit)
            )
            if problem:
                query = query.where(outbox.c.problem == problem)
            if connection:
                query = query.where(lanes.c.connection == connection)
            return [_dead_letter(row) for row in c.execute(query)]

        return await self._database.read(work)

    async def show(self, id: int) -> DeadLetterDetail | None:
        def work(c: Connection) -> DeadLetterDetail | None:
            row = c.execute(
                select(*_DEAD_LETTER)
                .join(lanes, lanes.c.id == outbox.c.lane)
                .where(outbox.c.seq == id)
            ).one_or_none()
            if row is None:
                return None
            entry = c.execute(select(*ENTRY_COLUMNS).where(outbox.c.seq == id)).one()
            sent = c.execute(
                select(requests)
                .join(outbox, outbox.c.request == requests.c.id)
                .where(outbox.c.seq == id)
            ).one_or_none()
            return DeadLetterDetail(
                _dead_letter(row), entry_of(entry), request_of(sent) if sent else None
            )

        return await self._database.read(work)

    async def retry(
        self,
        *,
        ids: Sequence[int] = (),
        problem: str | None = None,
        every: bool = False,
        now: Millis,
    ) -> int:
        # A record without an address would only be held again: it waits for its person instead.
        condition = [is_stuck(outbox), outbox.c.email.is_not(None)]
        if ids:
            condition.append(outbox.c.seq.in_(ids))
        elif problem:
            condition.append(outbox.c.problem == problem)
        elif not every:
            return 0
        values = {
            "state": State.READY,
            "due": now,
            "attempts": 0,
            "failing_since": None,
            "settled_at": None,
            "problem": None,
            "detail": "",
        }
        return await self._database.write(
            lambda c: c.execute(update(outbox).where(*condition).values(values)).rowcount
        )

    async def discard(self, ids: Sequence[int], *, reason: str, now: Millis) -> int:
        statement = (
            update(outbox)
            .where(outbox.c.seq.in_(ids), is_stuck(outbox))
            .values(state=State.DISCARDED, settled_at=now, detail=reason)
        )
        return await self._database.write(lambda c: c.execute(statement).rowcount)


def _dead_letter(row: Any) -> DeadLetter:
    return DeadLetter(
        id=row.seq,
        connection=row.connection,
        destination=row.destination,
        kind=cast(Kind, row.kind),
        state=State(row.state),
        name=row.name,
        unique_id=row.unique_id,
        problem=row.problem or "",
        detail=row.detail,
        attempts=row.attempts,
        received_at=row.received_at,
        settled_at=row.settled_at,
    )


def request_of(row: Any) -> Request:
    problem = Problem.from_code(row.problem) if row.problem else None
    return Request(row.id, row.endpoint, row.sent_at, row.status, row.millis, problem)
