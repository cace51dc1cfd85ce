"""Dead and held records: grouped by cause, shown, retried and discarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, or_, select, true, update

from connector.domain.lanes import Kind, Millis
from connector.domain.records import Entry, State
from connector.ports import ANY_DEAD_LETTER, DeadLetter, DeadLetterDetail, DeadLetterFilter
from connector.store.admin import requests as request_rows
from connector.store.database import Database
from connector.store.queues.outbox_rows import COLUMNS, OutboxRow
from connector.store.queues.queue import RESET
from connector.store.statements import chunks
from connector.store.tables import (
    in_state,
    is_stuck,
    lanes,
    memberships,
    outbox,
    profiles,
    requests,
)


class _DeadLetterRow(NamedTuple):
    """A stuck record and its lane. The names are those of the columns."""

    seq: int
    connection: str
    destination: str
    kind: Kind
    state: int
    name: str
    unique_id: str
    problem: str | None
    detail: str
    attempts: int
    received_at: Millis
    settled_at: Millis | None

    def dead_letter(self) -> DeadLetter:
        return DeadLetter(
            id=self.seq,
            connection=self.connection,
            destination=self.destination,
            kind=self.kind,
            state=State(self.state),
            name=self.name,
            unique_id=self.unique_id,
            problem=self.problem or "",
            detail=self.detail,
            attempts=self.attempts,
            received_at=self.received_at,
            settled_at=self.settled_at,
        )


_OF_LANE = ("connection", "destination", "kind")
_DEAD_LETTERS = select(
    *((lanes.c if name in _OF_LANE else outbox.c)[name] for name in _DeadLetterRow._fields)
).join(lanes, lanes.c.id == outbox.c.lane)


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
        self,
        which: DeadLetterFilter = ANY_DEAD_LETTER,
        *,
        before: int | None = None,
        limit: int = 100,
    ) -> Sequence[DeadLetter]:
        def work(c: Connection) -> list[DeadLetter]:
            query = (
                _DEAD_LETTERS.where(*_conditions(which))
                .order_by((outbox.c.seq + 0).desc())  # by the index of stuck rows, not all rows
                .limit(limit)
            )
            if before is not None:
                query = query.where(outbox.c.seq < before)
            return [_DeadLetterRow._make(row).dead_letter() for row in c.execute(query)]

        return await self._database.read(work)

    async def count(self, which: DeadLetterFilter) -> int:
        query = (
            select(func.count())
            .select_from(outbox)
            .join(lanes, lanes.c.id == outbox.c.lane)
            .where(*_conditions(which))
        )
        return await self._database.read(lambda c: int(c.execute(query).scalar_one()))

    async def show(self, id: int) -> DeadLetterDetail | None:
        def work(c: Connection) -> DeadLetterDetail | None:
            row = c.execute(_DEAD_LETTERS.where(outbox.c.seq == id)).one_or_none()
            if row is None:
                return None
            entry = c.execute(select(*COLUMNS).where(outbox.c.seq == id)).one()
            sent = c.execute(
                select(*request_rows.COLUMNS)
                .join(outbox, outbox.c.request == requests.c.id)
                .where(outbox.c.seq == id)
            ).one_or_none()
            return DeadLetterDetail(
                _DeadLetterRow._make(row).dead_letter(),
                OutboxRow._make(entry).entry(),
                request_rows.RequestRow._make(sent).request() if sent else None,
            )

        return await self._database.read(work)

    async def entries(self, which: DeadLetterFilter, *, limit: int) -> Sequence[Entry]:
        query = (
            select(*COLUMNS)
            .join(lanes, lanes.c.id == outbox.c.lane)
            .where(*_conditions(which))
            .order_by((outbox.c.seq + 0).desc())
            .limit(limit)
        )
        return await self._database.read(
            lambda c: [OutboxRow._make(row).entry() for row in c.execute(query)]
        )

    async def retry(
        self, which: DeadLetterFilter, *, after: int = 0, limit: int = 1_000, now: Millis
    ) -> tuple[int, int | None]:
        # A record without an address would only be held again: it waits for a read of its person.
        fresh = {"state": State.READY, "due": now, "attempts": 0, "failing_since": None}
        condition = outbox.c.email.is_not(None)
        return await self._change(which, RESET | fresh, condition, after=after, limit=limit)

    async def discard(
        self,
        which: DeadLetterFilter,
        *,
        reason: str,
        after: int = 0,
        limit: int = 1_000,
        now: Millis,
    ) -> tuple[int, int | None]:
        values = {"state": State.DISCARDED, "settled_at": now, "detail": reason}
        return await self._change(which, values, true(), after=after, limit=limit)

    async def _change(
        self,
        which: DeadLetterFilter,
        values: Mapping[str, Any],
        condition: ColumnElement[bool],
        *,
        after: int,
        limit: int,
    ) -> tuple[int, int | None]:
        query = (
            select(outbox.c.seq)
            .join(lanes, lanes.c.id == outbox.c.lane)
            .where(*_conditions(which), condition, outbox.c.seq > after)
            .order_by(outbox.c.seq + 0)
            .limit(limit)
        )

        def work(c: Connection) -> tuple[int, int | None]:
            found = list(c.execute(query).scalars())
            if not found:
                return 0, None
            for part in chunks(found):
                c.execute(update(outbox).where(outbox.c.seq.in_(part)).values(values))
            return len(found), found[-1]

        return await self._database.write(work)


def _conditions(which: DeadLetterFilter) -> list[ColumnElement[Any]]:
    found = [is_stuck(outbox) if which.state is None else in_state(which.state)]
    if which.ids:
        found.append(outbox.c.seq.in_(which.ids))
    if which.connection:
        found.append(lanes.c.connection == which.connection)
    if which.cause:
        found.append(outbox.c.problem == which.cause)
    if which.text:
        columns = (outbox.c.name, outbox.c.unique_id, outbox.c.detail)
        found.append(or_(*(column.icontains(which.text, autoescape=True) for column in columns)))
    return found
