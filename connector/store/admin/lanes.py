"""Lanes and their state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, insert, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import Kind, Lane, LaneId, LaneMode, LaneState, Millis
from connector.store.database import Database
from connector.store.tables import lanes


class LaneRow(NamedTuple):
    """A stored lane. The names are those of the columns."""

    id: LaneId
    connection: str
    destination: str
    kind: Kind
    mode: LaneMode
    problem: str | None
    detail: str
    since: Millis

    @classmethod
    def all(cls, c: Connection, *conditions: ColumnElement[bool]) -> list[LaneRow]:
        """Those that meet the conditions, by connection and age."""
        query = select(*(lanes.c[name] for name in cls._fields)).where(*conditions)
        return [cls._make(row) for row in c.execute(query.order_by(lanes.c.connection, lanes.c.id))]

    def lane(self) -> Lane:
        return Lane(self.id, self.connection, self.destination, self.kind)

    def lane_state(self) -> LaneState:
        problem = Problem.from_code(self.problem) if self.problem else None
        return LaneState(self.mode, problem, self.detail, self.since)


class SqlLanes:
    """connector.ports.Lanes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure(self, connection: str, destination: str, kind: Kind) -> Lane:
        route = {"connection": connection, "destination": destination, "kind": kind}

        def work(c: Connection) -> Lane:
            this = [lanes.c[key] == value for key, value in route.items()]
            if not LaneRow.all(c, *this):
                c.execute(insert(lanes).values(route))
            [row] = LaneRow.all(c, *this)
            return row.lane()

        return await self._database.write(work)

    async def all(self) -> Sequence[tuple[Lane, LaneState]]:
        return await self._database.read(
            lambda c: [(row.lane(), row.lane_state()) for row in LaneRow.all(c)]
        )

    async def set_state(self, lane: LaneId, state: LaneState) -> None:
        values = {
            "mode": state.mode,
            "problem": state.problem.value if state.problem else None,
            "detail": state.detail,
            "since": state.since,
        }
        await self._database.write(
            lambda c: c.execute(update(lanes).where(lanes.c.id == lane).values(values))
        )
