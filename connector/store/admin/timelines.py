"""One person as they are in the store, and what happened to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, select

from connector.domain.lanes import Millis
from connector.domain.records import State
from connector.ports import PersonState, TimelineEntry
from connector.store.admin.requests import COLUMNS, RequestRow
from connector.store.database import Database
from connector.store.people import identifiers as identifier_rows
from connector.store.people.identifiers import PersonRow
from connector.store.queues.action_keys import person_key
from connector.store.queues.action_views import state_of as action_state
from connector.store.tables import (
    actions,
    identifiers,
    journal,
    outbox,
    people,
    profiles,
    reads,
    requests,
)


class _Read(NamedTuple):
    """The person's row in `reads`."""

    state: int | None = None
    view_at: Millis | None = None
    problem: str | None = None


class _Write(NamedTuple):
    """The person's row in `profiles`."""

    state: int | None = None
    problem: str | None = None
    wanted: str = "{}"
    confirmed: str = "{}"


class _Action(NamedTuple):
    """An action of the person."""

    received_at: Millis
    name: str
    amount: int
    state: int
    step: int
    problem: str | None
    detail: str
    data: bytes


_READ = tuple(reads.c[name] for name in _Read._fields)
_WRITE = tuple(profiles.c[name] for name in _Write._fields)
_ACTION = tuple(actions.c[name] for name in _Action._fields)


class SqlTimelines:
    """connector.ports.Timelines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, connection: str, identifier: str) -> Sequence[int]:
        either = identifiers.c.value.in_([identifier, identifier.strip().lower()])
        query = select(identifiers.c.person).where(
            identifiers.c.connection == connection,
            identifiers.c.kind.in_(identifier_rows.KINDS),
            either,
        )
        return await self._database.read(lambda c: sorted(set(c.execute(query).scalars())))

    async def person(self, id: int, limit: int) -> PersonState:
        return await self._database.read(lambda c: _person(c, id, limit))


def _person(c: Connection, id: int, limit: int) -> PersonState:
    row = c.execute(select(*identifier_rows.COLUMNS).where(people.c.id == id)).one_or_none()
    if row is None:
        raise KeyError(id)
    person = PersonRow._make(row)
    gone_at = c.execute(select(people.c.gone_at).where(people.c.id == id)).scalar_one()
    read_row = c.execute(select(*_READ).where(reads.c.person == id)).one_or_none()
    write_row = c.execute(select(*_WRITE).where(profiles.c.person == id)).one_or_none()
    read, write = _Read(*read_row or ()), _Write(*write_row or ())
    timeline = [
        *_events(c, id, limit),
        *_writes(c, id, limit),
        *_actions(c, person_key(person.connection, id), limit),
    ]
    return PersonState(
        id=id,
        platform_id=person.platform_id,
        email=person.email,
        read_state=None if read.state is None else _name(read.state),
        read_at=read.view_at,
        gone_at=gone_at,
        write_state=None if write.state is None else _name(write.state),
        problem=write.problem or read.problem,
        wanted=orjson.loads(write.wanted),
        confirmed=orjson.loads(write.confirmed),
        timeline=sorted(timeline, key=lambda entry: entry.at)[-limit:],
    )


def _events(c: Connection, person: int, limit: int) -> Iterator[TimelineEntry]:
    """Events as they were received."""
    o = outbox.c
    query = (
        select(o.received_at, o.name, o.state, o.problem, o.detail, o.data, *COLUMNS)
        .join(requests, requests.c.id == o.request, isouter=True)
        .where(o.person == person)
        .order_by(o.seq.desc())
        .limit(limit)
    )
    for at, name, state, problem, detail, data, *sent in c.execute(query):
        request = RequestRow._make(sent).request()
        yield TimelineEntry(at, "event", name, _name(state), problem, detail, data, request)


def _writes(c: Connection, person: int, limit: int) -> Iterator[TimelineEntry]:
    """Profile writes as they were sent."""
    query = (
        select(journal.c.at, journal.c.kind, journal.c.outcome, journal.c.data, *COLUMNS)
        .join(requests, requests.c.id == journal.c.request, isouter=True)
        .where(journal.c.person == person)
        .order_by(journal.c.id.desc())
        .limit(limit)
    )
    for at, kind, outcome, data, *sent in c.execute(query):
        request = RequestRow._make(sent).request()
        yield TimelineEntry(at, kind, "profile", outcome, None, "", data, request)


def _actions(c: Connection, key: bytes, limit: int) -> Iterator[TimelineEntry]:
    """Actions as they were requested."""
    query = (
        select(*_ACTION, *COLUMNS)
        .join(requests, requests.c.id == actions.c.request, isouter=True)
        .where(actions.c.person_key == key)
        .order_by(actions.c.counted_at.desc())
        .limit(limit)
    )
    for row in c.execute(query):
        action = _Action._make(row[: len(_ACTION)])
        request = RequestRow._make(row[len(_ACTION) :]).request()
        name = f"{action.name} {action.amount:+d}" if action.amount else action.name
        yield TimelineEntry(
            action.received_at,
            "action",
            name,
            action_state(action.state, action.step, action.problem),
            action.problem,
            action.detail,
            action.data,
            request,
        )


def _name(state: int) -> str:
    return State(state).name.lower()
