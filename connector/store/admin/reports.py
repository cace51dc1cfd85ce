"""Read-only views for status, metrics and health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, case, func, select

from connector.domain.lanes import Lane, LaneId, Millis, QueueName
from connector.domain.outcomes import Request
from connector.domain.records import State
from connector.ports import Backlog
from connector.store.admin import requests as request_rows
from connector.store.admin.lanes import LaneRow
from connector.store.database import Database
from connector.store.queues.queue import in_mode, modes_of
from connector.store.tables import (
    QueueTable,
    actions,
    actions_queue,
    checkpoints,
    in_state,
    is_stuck,
    lanes,
    memberships,
    memberships_queue,
    outbox,
    outbox_queue,
    people,
    profiles,
    profiles_queue,
    reads,
    reads_queue,
    requests,
)


class SqlReports:
    """connector.ports.Reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def backlog(self) -> Sequence[Backlog]:
        def work(c: Connection) -> list[Backlog]:
            found = []
            for row in LaneRow.all(c):
                lane = row.lane()
                counts = {state: _count(c, lane, state) for state in _COUNTED}
                found.append(
                    Backlog(
                        lane,
                        row.lane_state(),
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
            for table in (outbox, profiles, actions, memberships):
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

    async def people_by_state(self) -> Mapping[tuple[str, str], int]:
        where = case(
            (reads.c.gone_at.is_not(None), "gone"),
            (people.c.email.is_(None), "held"),
            else_="known",
        )
        query = (
            select(people.c.connection, where, func.count())
            .join(reads, reads.c.person == people.c.id, isouter=True)
            .group_by(people.c.connection, where)
        )
        return await self._database.read(
            lambda c: {(connection, state): n for connection, state, n in c.execute(query)}
        )

    async def skipped_people(self) -> Mapping[tuple[str, str], int]:
        keys = (lanes.c.connection, profiles.c.problem)
        query = (
            select(*keys, func.count())
            .join(lanes, lanes.c.id == profiles.c.lane)
            .where(is_stuck(profiles))
            .group_by(*keys)
        )
        return await self._database.read(
            lambda c: {
                (connection, problem or ""): count
                for connection, problem, count in c.execute(query)
            }
        )

    async def streams(self) -> Sequence[tuple[str, str, str, Millis]]:
        t = checkpoints.c
        query = select(t.connection, t.stream, t.cursor, t.saved_at)
        ordered = query.order_by(t.connection, t.stream)
        return await self._database.read(
            lambda c: [
                (connection, stream, cursor, Millis(at))
                for connection, stream, cursor, at in c.execute(ordered)
            ]
        )

    async def recent_requests(self, limit: int) -> Sequence[tuple[str, str, Request]]:
        query = (
            select(lanes.c.connection, lanes.c.destination, *request_rows.COLUMNS)
            .join(lanes, lanes.c.id == requests.c.lane)
            .order_by(requests.c.sent_at.desc(), requests.c.id)
            .limit(limit)
        )

        def work(c: Connection) -> list[tuple[str, str, Request]]:
            found = []
            for connection, destination, *sent in c.execute(query):
                if request := request_rows.RequestRow._make(sent).request():
                    found.append((connection, destination, request))
            return found

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

    async def write_latencies(self, limit: int) -> Sequence[int]:
        query = (
            select(profiles.c.settled_at - profiles.c.since)
            .where(
                profiles.c.state == State.ACCEPTED,
                profiles.c.priority == 0,
                profiles.c.request.is_not(None),
                profiles.c.settled_at >= profiles.c.since,
            )
            .limit(limit)
        )
        return await self._database.read(lambda c: list(c.execute(query).scalars()))


_COUNTED = (State.READY, State.CLAIMED, State.HELD, State.DEAD)


_QUEUES: Mapping[QueueName, QueueTable] = {
    "outbox": outbox_queue,
    "reads": reads_queue,
    "profiles": profiles_queue,
    "memberships": memberships_queue,
    "actions": actions_queue,
}


def queue_of(lane: Lane) -> QueueTable:
    """The table that a lane claims its entries from."""
    return _QUEUES[lane.lane_kind.queue]


def _count(c: Connection, lane: Lane, state: State) -> int:
    table = queue_of(lane).table
    query = select(func.count()).select_from(table)
    return c.execute(query.where(table.c.lane == lane.id, in_state(state, table))).scalar_one()


def _oldest(c: Connection, lane: Lane) -> Millis | None:
    """When the oldest waiting row came to be. Of records the lowest seq counts, which the index of
    ready rows holds too: a retried record has waited since its receipt, however late it is due."""
    source = queue_of(lane)
    table = source.table
    ready = table.c.lane == lane.id, in_state(State.READY, table)
    if source is outbox_queue:
        first_seq = select(func.min(outbox.c.seq)).where(*ready).scalar_subquery()
        return c.execute(select(source.since).where(source.key == first_seq)).scalar_one_or_none()
    first = [
        c.execute(
            select(source.since)
            .where(*ready, *in_mode(source, mode), table.c.priority == priority)
            .order_by(table.c.due)
            .limit(1)
        ).scalar()
        for mode in modes_of(source)
        for priority in (0, 1)
    ]
    found = [at for at in first if at is not None]
    return Millis(min(found)) if found else None
