"""Read-only views for status, metrics and health."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlalchemy import Connection, func, select

from connector.domain.lanes import Lane, LaneId, Millis, QueueName
from connector.domain.outcomes import Request
from connector.domain.records import FIRST_POLL_STREAM, State
from connector.ports import Backlog, StuckGroup
from connector.store import counters
from connector.store.admin import requests as request_rows
from connector.store.admin.lanes import LaneRow
from connector.store.database import Database, on_request
from connector.store.queues.queue import in_mode, modes_of
from connector.store.tables import (
    QueueTable,
    actions_queue,
    checkpoints,
    in_state,
    is_waiting_record,
    lanes,
    memberships_queue,
    outbox,
    outbox_queue,
    profiles,
    profiles_queue,
    reads_queue,
    requests,
)


class SqlReports:
    """connector.ports.Reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def backlog(self) -> Sequence[Backlog]:
        def work(c: Connection) -> list[Backlog]:
            counted = {queue: counters.load_queue(c, queue) for queue in _QUEUES}
            found = []
            for row in LaneRow.all(c):
                lane = row.lane()
                states = counted[lane.lane_kind.queue][lane.id].states
                found.append(
                    Backlog(
                        lane,
                        row.lane_state(),
                        ready=states[State.READY],
                        claimed=states[State.CLAIMED],
                        held=states[State.HELD],
                        dead=states[State.DEAD],
                        oldest=_oldest(c, lane) if states[State.READY] else None,
                    )
                )
            return found

        return await self._database.read(work)

    async def people_by_state(self) -> Mapping[tuple[str, str], int]:
        return await self._database.read(lambda c: counters.load(c, "people"))

    async def streams(self) -> Sequence[tuple[str, str, str, Millis]]:
        t = checkpoints.c
        query = select(t.connection, t.stream, t.cursor, t.saved_at)
        # Its row stays, and would be shown as a stream that lags ever more.
        query = query.where(t.stream != FIRST_POLL_STREAM)
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
            .order_by(requests.c.sent_at.desc())
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
        @on_request
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

        @on_request
        def work(c: Connection) -> list[int]:
            return list(c.execute(query).scalars())

        return await self._database.read(work)


_QUEUES: Mapping[QueueName, QueueTable] = {
    "outbox": outbox_queue,
    "reads": reads_queue,
    "profiles": profiles_queue,
    "memberships": memberships_queue,
    "actions": actions_queue,
}


def stuck_groups(c: Connection, queues: Iterable[QueueName] = _QUEUES) -> Iterator[StuckGroup]:
    """What is held or dead in the lanes of these queues."""
    lanes = {row.id: row.lane() for row in LaneRow.all(c)}
    for queue in queues:
        for id, counted in counters.load_queue(c, queue).items():
            if lane := lanes.get(LaneId(id)):
                for (state, problem), count in counted.stuck.items():
                    yield StuckGroup(lane, state, problem, count)


def queue_of(lane: Lane) -> QueueTable:
    """The table that a lane claims its entries from."""
    return _QUEUES[lane.lane_kind.queue]


def _oldest(c: Connection, lane: Lane) -> Millis | None:
    """When the oldest waiting row came to be. Of records the lowest seq counts: one that is retried
    has waited since its receipt, however late it is due."""
    source = queue_of(lane)
    table = source.table
    ready = table.c.lane == lane.id, in_state(State.READY, table)
    if source is outbox_queue:
        waiting = outbox.c.lane == lane.id, is_waiting_record()
        first_seq = select(func.min(outbox.c.seq)).where(*waiting).scalar_subquery()
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
