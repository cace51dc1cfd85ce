"""What Klaviyo has confirmed, for reconciliation (connector.sync.reconcile)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Select, func, select, update

from connector.domain.lanes import DeliveryMode, LaneId, Millis
from connector.domain.profile_state import digest
from connector.domain.records import State
from connector.ports import AcceptedEvent, SyncedPerson
from connector.store.admin.retention import NO_BODY
from connector.store.database import Database, on_request
from connector.store.queues import profile_observations
from connector.store.statements import chunks
from connector.store.tables import in_state, outbox, profiles


class _SyncedRow(NamedTuple):
    """An idle profile. The names are those of the columns."""

    person: int
    identity: str
    wanted: str
    confirmed: str

    def synced_person(self) -> SyncedPerson:
        """With the fields that are confirmed as wanted."""
        wanted, confirmed = orjson.loads(self.wanted), orjson.loads(self.confirmed)
        fields = {
            name: value
            for name, (value, _) in wanted.items()
            if confirmed.get(name, ("",))[0] == digest(value)
        }
        email = orjson.loads(self.identity).get("email", "")
        return SyncedPerson(self.person, email, fields)


_COLUMNS = tuple(profiles.c[name] for name in _SyncedRow._fields)


class SqlLedger:
    """connector.ports.Ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def people(self, lane: LaneId, *, after: int, limit: int) -> Sequence[SyncedPerson]:
        query = _idle_profiles(lane).where(profiles.c.person > after).order_by(profiles.c.person)
        return await self._people(query.limit(limit))

    async def sample_people(self, lane: LaneId, count: int) -> Sequence[SyncedPerson]:
        return await self._people(_idle_profiles(lane).order_by(func.random()).limit(count))

    async def _people(self, query: Select[Any]) -> Sequence[SyncedPerson]:
        @on_request
        def work(c: Connection) -> list[SyncedPerson]:
            return [_SyncedRow._make(row).synced_person() for row in c.execute(query)]

        return await self._database.read(work)

    async def events(self, lane: LaneId, *, before: Millis, limit: int) -> Sequence[AcceptedEvent]:
        query = (
            select(outbox.c.seq, outbox.c.email, outbox.c.unique_id, outbox.c.occurred_at)
            .where(
                outbox.c.lane == lane,
                outbox.c.state == State.ACCEPTED,
                outbox.c.email.is_not(None),
                outbox.c.settled_at <= before,
            )
            .order_by(outbox.c.seq.desc())
            .limit(limit)
        )

        @on_request
        def work(c: Connection) -> list[AcceptedEvent]:
            return [AcceptedEvent(*row) for row in c.execute(query)]

        return await self._database.read(work)

    async def resend_people(self, people: Sequence[int], *, now: Millis) -> int:
        def work(c: Connection) -> int:
            for part in chunks(people):
                profile_observations.resend(c, part, now)
            return len(people)

        return await self._database.write(work)

    async def resend_events(self, events: Sequence[int], *, now: Millis) -> int:
        again = {
            "state": State.READY,
            "due": now,
            "attempts": 0,
            "failing_since": None,
            "delivery_mode": DeliveryMode.SINGLE,
        }

        def work(c: Connection) -> int:
            total = 0
            for part in chunks(events):
                accepted = outbox.c.seq.in_(part), outbox.c.state == State.ACCEPTED
                # Retention may have cleared the body.
                has_body = outbox.c.data != NO_BODY
                total += c.execute(update(outbox).where(*accepted, has_body).values(again)).rowcount
            return total

        return await self._database.write(work)


def _idle_profiles(lane: LaneId) -> Select[Any]:
    """People without changes that wait to be sent."""
    return select(*_COLUMNS).where(profiles.c.lane == lane, in_state(State.ACCEPTED, profiles))
