"""Dead and held records: grouped by cause, shown, retried and discarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, or_, select, true, update

from connector.domain.lanes import LaneId, Millis
from connector.domain.records import Entry, State
from connector.ports import (
    ANY_DEAD_LETTER,
    DeadLetter,
    DeadLetterDetail,
    DeadLetterFilter,
    StuckGroup,
)
from connector.store.admin import requests as request_rows
from connector.store.admin.lanes import LaneRow
from connector.store.admin.reports import stuck_groups
from connector.store.database import Database
from connector.store.pieces import Pieces
from connector.store.queues.outbox_rows import COLUMNS, OutboxRow, by_stuck_index
from connector.store.queues.queue import RESET
from connector.store.statements import chunks
from connector.store.tables import (
    in_state,
    is_stuck,
    outbox,
    requests,
)

_MOST_CHANGED = 1_000
"""Dead letters that one transaction retries or discards."""


class _DeadLetterRow(NamedTuple):
    """A stuck record. The names are those of the columns."""

    seq: int
    lane: LaneId
    state: int
    name: str
    unique_id: str
    problem: str | None
    detail: str
    attempts: int
    received_at: Millis
    settled_at: Millis | None

    def dead_letter(self, lanes: Mapping[LaneId, LaneRow]) -> DeadLetter:
        lane = lanes[self.lane]
        return DeadLetter(
            id=self.seq,
            connection=lane.connection,
            destination=lane.destination,
            kind=lane.kind,
            state=State(self.state),
            name=self.name,
            unique_id=self.unique_id,
            problem=self.problem or "",
            detail=self.detail,
            attempts=self.attempts,
            received_at=self.received_at,
            settled_at=self.settled_at,
        )


_DEAD_LETTERS = select(*(outbox.c[name] for name in _DeadLetterRow._fields))


class SqlDeadLetters:
    """connector.ports.DeadLetters."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changed = Pieces(database, _MOST_CHANGED)

    async def groups(self) -> Sequence[StuckGroup]:
        def work(c: Connection) -> list[StuckGroup]:
            return sorted(
                stuck_groups(c),
                key=lambda group: (-group.entries, group.lane.title, group.problem, group.state),
            )

        return await self._database.read(work)

    async def find(
        self,
        which: DeadLetterFilter = ANY_DEAD_LETTER,
        *,
        before: int | None = None,
        limit: int = 100,
    ) -> Sequence[DeadLetter]:
        def work(c: Connection) -> list[DeadLetter]:
            lanes = _lanes(c)
            query = _DEAD_LETTERS.where(*_conditions(which, lanes))
            if before is not None:
                query = query.where(outbox.c.seq < before)
            newest = by_stuck_index(query).order_by(outbox.c.seq.desc()).limit(limit)
            return [_DeadLetterRow._make(row).dead_letter(lanes) for row in c.execute(newest)]

        return await self._database.read(work)

    async def count(self, which: DeadLetterFilter) -> int:
        def work(c: Connection) -> int:
            if not (which.ids or which.text):
                return sum(
                    group.entries
                    for group in stuck_groups(c, ["outbox"])
                    if which.connection in (None, "", group.lane.connection)
                    and which.state in (None, group.state)
                    and which.cause in (None, "", group.problem)
                )
            query = select(func.count()).select_from(outbox)
            query = query.where(*_conditions(which, _lanes(c)))
            return int(c.execute(by_stuck_index(query)).scalar_one())

        return await self._database.read(work)

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
                _DeadLetterRow._make(row).dead_letter(_lanes(c)),
                OutboxRow._make(entry).entry(),
                request_rows.RequestRow._make(sent).request() if sent else None,
            )

        return await self._database.read(work)

    async def entries(self, which: DeadLetterFilter, *, limit: int) -> Sequence[Entry]:
        def work(c: Connection) -> list[Entry]:
            query = select(*COLUMNS).where(*_conditions(which, _lanes(c)))
            newest = by_stuck_index(query).order_by(outbox.c.seq.desc()).limit(limit)
            return [OutboxRow._make(row).entry() for row in c.execute(newest)]

        return await self._database.read(work)

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
        # Looked for beside the writer: the first that matches may be behind a million.
        most = min(limit, self._changed.rows)

        def look(c: Connection) -> list[int]:
            query = select(outbox.c.seq).where(*_conditions(which, _lanes(c)), condition)
            page = query.where(outbox.c.seq > after).order_by(outbox.c.seq).limit(most)
            return list(c.execute(by_stuck_index(page)).scalars())

        found = await self._database.read(look)
        if not found:
            return 0, None

        def work(c: Connection) -> int:
            conditions = (*_conditions(which, _lanes(c)), condition)
            return sum(
                c.execute(
                    update(outbox).where(outbox.c.seq.in_(part), *conditions).values(values)
                ).rowcount
                for part in chunks(found)
            )

        return await self._changed.write(work, rows=len(found)), found[-1]


def _lanes(c: Connection) -> dict[LaneId, LaneRow]:
    return {row.id: row for row in LaneRow.all(c)}


def _conditions(
    which: DeadLetterFilter, lanes: Mapping[LaneId, LaneRow]
) -> list[ColumnElement[Any]]:
    found = [is_stuck(outbox) if which.state is None else in_state(which.state)]
    if which.ids:
        found.append(outbox.c.seq.in_(which.ids))
    if which.connection:
        of = [id for id, lane in lanes.items() if lane.connection == which.connection]
        # "+ 0" lets SQLite only filter by the lane, in the order of the index.
        found.append((outbox.c.lane + 0).in_(of))
    if which.cause:
        found.append(outbox.c.problem == which.cause)
    if which.text:
        columns = (outbox.c.name, outbox.c.unique_id, outbox.c.detail)
        found.append(or_(*(column.icontains(which.text, autoescape=True) for column in columns)))
    return found
