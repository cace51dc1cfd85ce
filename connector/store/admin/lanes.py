"""Lanes and their state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, exists, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import (
    DeliveryMode,
    Kind,
    Lane,
    LaneId,
    LaneMode,
    LaneState,
    Millis,
    QueueName,
)
from connector.domain.records import State
from connector.store.database import Database
from connector.store.statements import upsert
from connector.store.tables import (
    QueueTable,
    actions_queue,
    in_state,
    lanes,
    memberships_queue,
    outbox_queue,
    profiles_queue,
    reads_queue,
)

_QUEUE_TABLES: Mapping[QueueName, QueueTable] = {
    "outbox": outbox_queue,
    "reads": reads_queue,
    "profiles": profiles_queue,
    "memberships": memberships_queue,
    "actions": actions_queue,
}


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


def _with_due(source: QueueTable, ids: Collection[LaneId], now: Millis) -> Select[Any]:
    """The lanes for which the index of ready rows has one that is due: a look-up or a few each."""
    table = source.table
    of_lane = [table.c.lane == lanes.c.id, in_state(State.READY, table), table.c.due <= now]
    kinds = [table.c.priority.in_((0, 1))]
    if source.mode is not None:
        kinds.append(source.mode.in_(list(DeliveryMode)))
    return select(lanes.c.id).where(lanes.c.id.in_(list(ids)), exists().where(*of_lane, *kinds))


class SqlLanes:
    """connector.ports.Lanes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure(self, connection: str, destination: str, kind: Kind) -> Lane:
        route = {"connection": connection, "destination": destination, "kind": kind}

        def work(c: Connection) -> Lane:
            this = [lanes.c[key] == value for key, value in route.items()]
            if not LaneRow.all(c, *this):
                # Another replica may do so at the same time.
                c.execute(upsert(c.dialect.name, lanes).on_conflict_do_nothing().values(route))
            [row] = LaneRow.all(c, *this)
            return row.lane()

        return await self._database.write(work)

    async def all(self) -> Sequence[tuple[Lane, LaneState]]:
        return await self._database.read(
            lambda c: [(row.lane(), row.lane_state()) for row in LaneRow.all(c)]
        )

    async def due(self, lanes: Collection[Lane], *, now: Millis) -> frozenset[LaneId]:
        by_queue: defaultdict[QueueName, list[LaneId]] = defaultdict(list)
        for lane in lanes:
            by_queue[lane.lane_kind.queue].append(lane.id)

        def work(c: Connection) -> frozenset[LaneId]:
            found: set[LaneId] = set()
            for name, ids in by_queue.items():
                rows = c.execute(_with_due(_QUEUE_TABLES[name], ids, now))
                found.update(LaneId(row.id) for row in rows)
            return frozenset(found)

        return await self._database.read(work)

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
