"""What stands where: read-only, for status, metrics and health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, case, func, or_, select

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis, QueueName
from connector.domain.outcomes import Request
from connector.domain.records import State
from connector.ports import Backlog, PersonState, TimelineEntry
from connector.store.admin.dead_letters import request_of
from connector.store.admin.lanes import lane_of, state_of
from connector.store.database import Database
from connector.store.queues.action_intake import person_key
from connector.store.queues.action_views import state_of as action_state
from connector.store.queues.queue import in_mode, modes_of
from connector.store.tables import (
    QueueTable,
    actions,
    actions_queue,
    checkpoints,
    in_state,
    journal,
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

    async def people(self, connection: str, identifier: str) -> Sequence[int]:
        either = or_(
            people.c.platform_id == identifier, people.c.email == identifier.strip().lower()
        )
        query = select(people.c.id).where(people.c.connection == connection, either)
        return await self._database.read(lambda c: list(c.execute(query).scalars()))

    async def person(self, id: int, limit: int) -> PersonState:
        return await self._database.read(lambda c: _person(c, id, limit))


def _person(c: Connection, id: int, limit: int) -> PersonState:
    who = c.execute(select(people).where(people.c.id == id)).one()
    read = c.execute(
        select(reads.c.state, reads.c.view_at, reads.c.gone_at, reads.c.problem).where(
            reads.c.person == id
        )
    ).one_or_none()
    write = c.execute(
        select(profiles.c.state, profiles.c.problem, profiles.c.wanted, profiles.c.confirmed).where(
            profiles.c.person == id
        )
    ).one_or_none()
    problem = (write.problem if write else None) or (read.problem if read else None)
    return PersonState(
        id=id,
        platform_id=who.platform_id,
        email=who.email,
        read_state=State(read.state).name.lower() if read else None,
        read_at=read.view_at if read else None,
        gone_at=read.gone_at if read else None,
        write_state=State(write.state).name.lower() if write else None,
        problem=problem,
        wanted=orjson.loads(write.wanted) if write else {},
        confirmed=orjson.loads(write.confirmed) if write else {},
        timeline=_timeline(c, id, who.connection, limit),
    )


def _timeline(c: Connection, person: int, connection: str, limit: int) -> list[TimelineEntry]:
    """Events as received, writes as told and actions as asked for, each with the request that
    carried it."""
    events = (
        select(
            outbox.c.received_at,
            outbox.c.name,
            outbox.c.state,
            outbox.c.problem,
            outbox.c.detail,
            outbox.c.data,
            *_REQUEST,
        )
        .join(requests, requests.c.id == outbox.c.request, isouter=True)
        .where(outbox.c.person == person)
        .order_by(outbox.c.seq.desc())
        .limit(limit)
    )
    writes = (
        select(journal.c.at, journal.c.kind, journal.c.outcome, journal.c.data, *_REQUEST)
        .join(requests, requests.c.id == journal.c.request, isouter=True)
        .where(journal.c.person == person)
        .order_by(journal.c.id.desc())
        .limit(limit)
    )
    found = [
        TimelineEntry(
            at,
            "event",
            name,
            State(state).name.lower(),
            problem,
            detail,
            data,
            _joined_request(sent),
        )
        for at, name, state, problem, detail, data, *sent in c.execute(events)
    ]
    found += [
        TimelineEntry(at, kind, "profile", outcome, None, "", data, _joined_request(sent))
        for at, kind, outcome, data, *sent in c.execute(writes)
    ]
    requested = (
        select(actions, *_REQUEST)
        .join(requests, requests.c.id == actions.c.request, isouter=True)
        .where(actions.c.person_key == person_key(connection, person))
        .order_by(actions.c.received_at.desc())
        .limit(limit)
    )
    for row in c.execute(requested):
        name = f"{row.name} {row.amount:+d}" if row.amount else row.name
        at, problem, sent = row.received_at, row.problem, row[-len(_REQUEST) :]
        state = action_state(row.state, row.step, problem)
        found.append(
            TimelineEntry(
                at, "action", name, state, problem, row.detail, row.data, _joined_request(sent)
            )
        )
    return sorted(found, key=lambda moment: moment.at)[-limit:]


_REQUEST = (
    requests.c.id,
    requests.c.endpoint,
    requests.c.sent_at,
    requests.c.status,
    requests.c.millis,
    requests.c.problem,
)


def _joined_request(sent: Sequence[Any]) -> Request | None:
    id, endpoint, sent_at, status, millis, problem = sent
    if id is None:
        return None
    return Request(
        id, endpoint, sent_at, status, millis, Problem.from_code(problem) if problem else None
    )


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
