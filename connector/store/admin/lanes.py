"""Lanes and their state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypedDict

from sqlalchemy import Connection, exists, or_, select, update

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
from connector.ports import Fence
from connector.store.admin import leases
from connector.store.database import Database
from connector.store.prepared import Prepared, param
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


class Route(TypedDict):
    """What a lane is found by. The names are those of the columns."""

    connection: str
    destination: str
    kind: Kind


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
    def all(cls, c: Connection) -> list[LaneRow]:
        """By connection and age."""
        return [cls._make(row) for row in _ALL.rows(c)]

    @classmethod
    def find(cls, c: Connection, route: Route) -> LaneRow | None:
        row = _FIND.first(c, **route)
        return cls._make(row) if row else None

    def lane(self) -> Lane:
        return Lane(self.id, self.connection, self.destination, self.kind)

    def lane_state(self) -> LaneState:
        problem = Problem.from_code(self.problem) if self.problem else None
        return LaneState(self.mode, problem, self.detail, self.since)


_QUERY = select(*(lanes.c[name] for name in LaneRow._fields))
_ALL = Prepared(_QUERY.order_by(lanes.c.connection, lanes.c.id))
_FIND = Prepared(_QUERY.where(*(lanes.c[name] == param(name) for name in Route.__annotations__)))


def _with_due(source: QueueTable) -> Prepared:
    """The lanes for which the index of ready rows has one that is due: a look-up or a few each."""
    table = source.table
    of_lane = [
        table.c.lane == lanes.c.id,
        in_state(State.READY, table),
        table.c.due <= param("now"),
        or_(*(table.c.priority == priority for priority in (0, 1))),
    ]
    if source.mode is not None:
        of_lane.append(or_(*(source.mode == mode for mode in DeliveryMode)))
    asked = lanes.c.id.in_(param("lanes", expanding=True))
    return Prepared(select(lanes.c.id).where(asked, exists().where(*of_lane)), many="lanes")


_WITH_DUE = {
    "outbox": _with_due(outbox_queue),
    "reads": _with_due(reads_queue),
    "profiles": _with_due(profiles_queue),
    "memberships": _with_due(memberships_queue),
    "actions": _with_due(actions_queue),
}


class SqlLanes:
    """connector.ports.Lanes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure(self, connection: str, destination: str, kind: Kind) -> Lane:
        route = Route(connection=connection, destination=destination, kind=kind)

        def work(c: Connection) -> Lane:
            if (known := LaneRow.find(c, route)) is not None:
                return known.lane()
            # Another replica may do so at the same time.
            c.execute(upsert(c.dialect.name, lanes).on_conflict_do_nothing().values(route))
            made = LaneRow.find(c, route)
            assert made is not None, "this process or another has just inserted it"
            return made.lane()

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
            return frozenset(
                LaneId(id)
                for name, ids in by_queue.items()
                for (id,) in _WITH_DUE[name].rows(c, lanes=ids, now=now)
            )

        return await self._database.read(work)

    async def set_state(self, lane: LaneId, state: LaneState, fence: Fence | None = None) -> None:
        values = {
            "mode": state.mode,
            "problem": state.problem.value if state.problem else None,
            "detail": state.detail,
            "since": state.since,
        }

        def work(c: Connection) -> None:
            if fence is not None:
                leases.require_lease(c, fence, state.since)
            c.execute(update(lanes).where(lanes.c.id == lane).values(values))

        await self._database.write(work)
