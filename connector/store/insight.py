"""What stands where: read-only, for status, metrics and health."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from connector.model import LaneId, Millis, Request, State
from connector.ports import Backlog
from connector.store.database import Database
from connector.store.lanes import lane_of, state_of
from connector.store.letters import request_of
from connector.store.tables import checkpoints, in_state, lanes, outbox, requests


class SqlInsight:
    """connector.ports.Insight."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def backlog(self) -> Sequence[Backlog]:
        def work(c: Connection) -> list[Backlog]:
            found = []
            for row in c.execute(select(lanes).order_by(lanes.c.connection, lanes.c.id)):
                lane = lane_of(row)
                counts = {state: _count(c, lane.id, state) for state in _COUNTED}
                found.append(
                    Backlog(
                        lane,
                        state_of(row),
                        ready=counts[State.READY],
                        claimed=counts[State.CLAIMED],
                        held=counts[State.HELD],
                        dead=counts[State.DEAD],
                        oldest=_oldest(c, lane.id),
                    )
                )
            return found

        return await self._database.read(work)

    async def dead_by_cause(self) -> Sequence[tuple[str, str, int]]:
        def work(c: Connection) -> list[tuple[str, str, int]]:
            keys = (lanes.c.connection, outbox.c.problem)
            query = (
                select(*keys, func.count())
                .join(lanes, lanes.c.id == outbox.c.lane)
                .where(in_state(State.DEAD))
                .group_by(*keys)
                .order_by(*keys)
            )
            return [(a, problem or "", n) for a, problem, n in c.execute(query)]

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


def _count(c: Connection, lane: int, state: State) -> int:
    query = select(func.count()).select_from(outbox)
    return c.execute(query.where(outbox.c.lane == lane, in_state(state))).scalar_one()


def _oldest(c: Connection, lane: int) -> Millis | None:
    first = [
        c.execute(
            select(outbox.c.received_at)
            .where(
                outbox.c.lane == lane,
                in_state(State.READY),
                outbox.c.solo == solo,
                outbox.c.priority == priority,
            )
            .order_by(outbox.c.due, outbox.c.seq)
            .limit(1)
        ).scalar()
        for solo in (0, 1)
        for priority in (0, 1)
    ]
    found = [at for at in first if at is not None]
    return Millis(min(found)) if found else None
