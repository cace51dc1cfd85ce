"""People whose profile, read or membership is held or died, by cause."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Any, get_args

from sqlalchemy import Connection, RowMapping, Select, null, select

from connector.domain.lanes import Millis
from connector.ports import StuckGroup, StuckPerson, StuckPosition, StuckQueue
from connector.store.admin.reports import queue_of, stuck_groups
from connector.store.database import Database
from connector.store.tables import groups, in_state, memberships, people

_QUEUES: tuple[StuckQueue, ...] = get_args(StuckQueue)


class SqlStuckPeople:
    """connector.ports.StuckPeople."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self,
        *,
        connection: str | None = None,
        cause: str | None = None,
        after: StuckPosition | None = None,
        limit: int = 100,
    ) -> Sequence[StuckPerson]:
        def work(c: Connection) -> list[StuckPerson]:
            found: list[StuckPerson] = []
            first = _QUEUES.index(after.queue) if after else 0
            for queue in _QUEUES[first:]:
                before = after.id if after and after.queue == queue else None
                parts = [
                    _newest(c, queue, group, before, limit - len(found))
                    for group in stuck_groups(c, [queue])
                    if connection in (None, group.lane.connection)
                    and cause in (None, group.problem)
                ]
                newest = merge(*parts, key=attrgetter("position.id"), reverse=True)
                found += islice(newest, limit - len(found))
                if len(found) == limit:
                    break
            return found

        return await self._database.read(work)


def _newest(
    c: Connection, queue: StuckQueue, group: StuckGroup, before: int | None, limit: int
) -> list[StuckPerson]:
    """The newest of one group, in the order of the index that holds only these."""
    query, key = _query(group), queue_of(group.lane).key
    if before is not None:
        query = query.where(key < before)
    rows = c.execute(query.order_by(key.desc()).limit(limit)).mappings()
    return [_person(queue, group, row) for row in rows]


def _query(group: StuckGroup) -> Select[Any]:
    queue = queue_of(group.lane)
    table = queue.table
    if table is memberships:
        of = memberships.outerjoin(groups, groups.c.id == memberships.c.target)
        who = (
            null().label("person"),
            memberships.c.platform_id,
            memberships.c.email,
            groups.c.name.label("target"),
        )
    else:
        of = table.outerjoin(people, people.c.id == queue.key)
        who = (
            people.c.id.label("person"),
            people.c.platform_id,
            people.c.email,
            null().label("target"),
        )
    problem = table.c.problem == group.problem if group.problem else table.c.problem.is_(None)
    return (
        select(
            queue.key.label("key"),
            queue.since.label("since"),
            table.c.detail,
            *who,
        )
        .select_from(of)
        .where(table.c.lane == group.lane.id, in_state(group.state, table), problem)
    )


def _person(queue: StuckQueue, group: StuckGroup, row: RowMapping) -> StuckPerson:
    return StuckPerson(
        position=StuckPosition(queue, row["key"]),
        lane=group.lane,
        state=group.state,
        problem=group.problem,
        detail=row["detail"],
        since=Millis(row["since"]),
        person=row["person"],
        platform_id=row["platform_id"],
        email=row["email"],
        target=row["target"] or "",
    )
