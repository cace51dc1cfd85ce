"""What stands where: read-only, for status, metrics and health."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Connection, Table, func, select

from connector.model import Lane, LaneId, Millis, Request, State
from connector.ports import Backlog
from connector.store.database import Database
from connector.store.lanes import lane_of, state_of
from connector.store.letters import request_of
from connector.store.tables import (
    checkpoints,
    in_state,
    lanes,
    outbox,
    profiles,
    reads,
    requests,
)


class SqlInsight:
    """connector.ports.Insight."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def backlog(self) -> Sequence[Backlog]:
        def work(c: Connection) -> list[Backlog]:
            found = []
            for row in c.execute(select(lanes).order_by(lanes.c.connection, lanes.c.id)):
                lane = lane_of(row)
                counts = {state: _count(c, lane, state) for state in _COUNTED}
                found.append(
                    Backlog(
                        lane,
                        state_of(row),
                        ready=counts[State.READY],
                        claimed=counts[State.CLAIMED],
                        held=counts[State.HELD],
                        dead=counts[State.DEAD],
                        oldest=_oldest(c, lane),
                    )
                )
            return found

        return await self._database.read(work)

    async def dead_by_cause(self) -> Sequence[tuple[str, str, int]]:
        def work(c: Connection) -> list[tuple[str, str, int]]:
            found: dict[tuple[str, str], int] = {}
            for table in (outbox, profiles):
                keys = (lanes.c.connection, table.c.problem)
                query = (
                    select(*keys, func.count())
                    .join(lanes, lanes.c.id == table.c.lane)
                    .where(in_state(State.DEAD, table))
                    .group_by(*keys)
                )
                for connection, problem, count in c.execute(query):
                    key = (connection, problem or "")
                    found[key] = found.get(key, 0) + count
            return sorted((*key, count) for key, count in found.items())

        return await self._database.read(work)

    async def streams(self) -> Sequence[tuple[str, str, str, Millis]]:
        def work(c: Connection) -> list[tuple[str, str, str, Millis]]:
            query = select(checkpoints).order_by(checkpoints.c.connection, checkpoints.c.stream)
            return [(r.connection, r.stream, r.cursor, r.saved_at) for r in c.execute(query)]

        return await self._database.read(work)

    async def recent_requests(self, limit: int) -> Sequence[tuple[str, str, Request]]:
        def work(c: Connection) -> list[tuple[str, str, Request]]:
            query = (
                select(requests, lanes.c.connection, lanes.c.destination)
                .join(lanes, lanes.c.id == requests.c.lane)
                .order_by(requests.c.sent_at.desc(), requests.c.id)
                .limit(limit)
            )
            return [(r.connection, r.destination, request_of(r)) for r in c.execute(query)]

        return await self._database.read(work)

    async def latencies(self, lane: LaneId, limit: int) -> Sequence[int]:
        def work(c: Connection) -> list[int]:
            query = (
                select(outbox.c.settled_at - outbox.c.received_at)
                .where(outbox.c.lane == lane, outbox.c.state == State.ACCEPTED)
                .order_by(outbox.c.seq.desc())
                .limit(limit)
            )
            return list(c.execute(query).scalars())

        return await self._database.read(work)


_COUNTED = (State.READY, State.CLAIMED, State.HELD, State.DEAD)


def queue_of(lane: Lane) -> tuple[Table, Column[Any]]:
    """The table that a lane takes its entries from, and when each of them came to be."""
    if lane.kind != "profile":
        return outbox, outbox.c.received_at
    if lane.destination == "klaviyo":
        return profiles, profiles.c.since
    return reads, reads.c.asked_at


def _count(c: Connection, lane: Lane, state: State) -> int:
    table, _ = queue_of(lane)
    query = select(func.count()).select_from(table)
    return c.execute(query.where(table.c.lane == lane.id, in_state(state, table))).scalar_one()


def _oldest(c: Connection, lane: Lane) -> Millis | None:
    table, since = queue_of(lane)
    first = [
        c.execute(
            select(since)
            .where(
                table.c.lane == lane.id,
                in_state(State.READY, table),
                table.c.solo == solo,
                table.c.priority == priority,
            )
            .order_by(table.c.due)
            .limit(1)
        ).scalar()
        for solo in (0, 1)
        for priority in (0, 1)
    ]
    found = [at for at in first if at is not None]
    return Millis(min(found)) if found else None
