"""How far backfills are, in SQL: derived from the reads and profiles of their people."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Integer,
    Label,
    Select,
    and_,
    case,
    exists,
    func,
    literal,
    select,
)

from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis
from connector.domain.records import State
from connector.store.database import Database, on_request
from connector.store.prepared import Prepared, param
from connector.store.queues import queue
from connector.store.tables import (
    QueueTable,
    backfills,
    in_state,
    people,
    profiles,
    profiles_queue,
    reads,
    reads_queue,
)


class SqlBackfillProgress:
    """connector.ports.BackfillProgress."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def outstanding(
        self, read_lane: LaneId, write_lane: LaneId, *, limit: int
    ) -> tuple[int, int]:
        def work(c: Connection) -> tuple[int, int]:
            return (
                _count_waiting(c, reads_queue, read_lane, limit),
                _count_waiting(c, profiles_queue, write_lane, limit),
            )

        return await self._database.read(work)

    async def pending(self, id: int, read_lane: LaneId, write_lane: LaneId) -> bool:
        of_run = exists(
            select(literal(1)).where(reads.c.person == profiles.c.person, reads.c.backfill == id)
        )

        def work(c: Connection) -> bool:
            return any(
                _any_waits(c, source, lane, condition)
                for source, lane, condition in (
                    (reads_queue, read_lane, reads.c.backfill == id),
                    (profiles_queue, write_lane, of_run),
                )
            )

        return await self._database.read(work)

    async def outcome_counts(self, id: int) -> Mapping[str, int]:
        @on_request
        def work(c: Connection) -> dict[str, int]:
            started_at = select(backfills.c.started_at).where(backfills.c.id == id)
            outcome = _outcome(c.execute(started_at).scalar_one())
            query = (
                select(outcome, func.count().label("people"))
                .select_from(reads)
                .join(people, people.c.id == reads.c.person)
                .join(profiles, profiles.c.person == reads.c.person, isouter=True)
                .where(reads.c.backfill == id)
                .group_by(outcome)
            )
            return {row.outcome: row.people for row in c.execute(query)}

        return await self._database.read(work)


def _count_waiting(c: Connection, source: QueueTable, lane: LaneId, limit: int) -> int:
    """Ready or claimed rows at backfill priority, counted up to `limit`."""
    counts: tuple[int, ...] = _waiting_counts(source).first(c, lane=lane, most=limit)
    return min(sum(counts), limit)


@functools.cache
def _waiting_counts(source: QueueTable) -> Prepared:
    """A count for each part of what waits."""
    most = param("most", type_=Integer)
    of_backfill = source.table.c.priority == 1
    parts = [part.where(of_backfill).limit(most) for part in _waiting(source, param("lane"))]
    counts = [select(func.count()).select_from(part.subquery()) for part in parts]
    return Prepared(select(*(n.scalar_subquery().label(f"n{i}") for i, n in enumerate(counts))))


def _any_waits(
    c: Connection, source: QueueTable, lane: LaneId, condition: ColumnElement[bool]
) -> bool:
    parts = (part.where(condition).limit(1) for part in _waiting(source, lane))
    return any(c.execute(part).first() for part in parts)


def _waiting(source: QueueTable, lane: LaneId | BindParameter[Any]) -> list[Select[Any]]:
    """Ready and claimed rows of a lane, each part in the order of an index."""
    table = source.table
    modes = [(State.READY, queue.in_mode(source, mode)) for mode in queue.modes_of(source)]
    return [
        select(source.key).where(table.c.lane == lane, in_state(state, table), *mode)
        for state, mode in (*modes, (State.CLAIMED, []))
    ]


def _outcome(started_at: Millis) -> Label[Any]:
    """One word for the state of a person. A profile that Klaviyo accepted after the run began
    counts as sent, also when a live event caused the write."""
    r, p = reads.c, profiles.c
    withdrawn = and_(r.state == State.HELD, r.problem == Problem.PAUSED.value)
    return case(
        (r.state.in_((State.READY, State.CLAIMED)) | withdrawn, "pending"),
        (r.state == State.DEAD, "dead"),
        (r.state == State.HELD, "held"),
        (people.c.gone_at.is_not(None) & people.c.email.is_(None), "held"),
        (people.c.gone_at.is_not(None), "unknown"),
        (p.state.in_((State.READY, State.CLAIMED)), "pending"),
        (p.state == State.DEAD, "dead"),
        (and_(p.state == State.HELD, p.problem == Problem.BAD_ADDRESS.value), "invalid"),
        (p.state == State.HELD, "held"),
        (and_(p.settled_at >= started_at, p.request.is_not(None)), "sent"),
        else_="unchanged",
    ).label("outcome")
