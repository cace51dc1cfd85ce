"""How far backfills are, in SQL: derived from the reads and profiles of their people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Label, and_, case, func, select

from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis
from connector.domain.records import State
from connector.store.database import Database, on_request
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
    table = source.table
    parts = [(State.READY, queue.in_mode(source, mode)) for mode in queue.modes_of(source)]
    found = 0
    for state, mode in (*parts, (State.CLAIMED, [])):
        part = select(source.key).where(
            table.c.lane == lane, in_state(state, table), *mode, table.c.priority == 1
        )
        query = select(func.count()).select_from(part.limit(limit).subquery())
        found += c.execute(query).scalar_one()
    return min(found, limit)


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
