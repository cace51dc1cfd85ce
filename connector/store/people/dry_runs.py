"""What a backfill would read and write, in SQL. Nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from connector.domain import profile_state
from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.profile_state import Profile
from connector.domain.profiles import Observation, ProfileWrite
from connector.domain.records import Entry
from connector.ports import PersonKey
from connector.store.database import Database
from connector.store.people import people
from connector.store.people.identifiers import PersonRow
from connector.store.queues import profile_rows
from connector.store.statements import chunks
from connector.store.tables import reads


class SqlDryRuns:
    """connector.ports.DryRuns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_entries(
        self, connection: str, keys: Sequence[PersonKey], *, now: Millis
    ) -> Sequence[Entry]:
        def work(c: Connection) -> list[Entry]:
            rows = people.find(c, connection, keys)
            views = _views(c, [row.id for row in rows if row])
            return [
                _entry(number, key, row, views, now)
                for number, (key, row) in enumerate(zip(keys, rows, strict=True), 1)
            ]

        return await self._database.read(work)

    async def preview_writes(
        self, observations: Sequence[Observation], *, now: Millis
    ) -> Sequence[ProfileWrite | None]:
        def work(c: Connection) -> list[ProfileWrite | None]:
            before = profile_rows.load(c, [o.person for o in observations])
            return [_write(before.get(o.person) or Profile(o.person), o, now) for o in observations]

        return await self._database.read(work)


def _write(profile: Profile, o: Observation, now: Millis) -> ProfileWrite | None:
    observed = profile_state.observe(profile, o)
    return profile_state.next_write(
        profile_state.expire_confirmed(observed, now=now, after=o.reconfirm_after)
    )


def _views(c: Connection, ids: Sequence[int]) -> dict[int, bytes]:
    """The newest views, as JSON."""
    views: dict[int, bytes] = {}
    for part in chunks(ids):
        query = select(reads.c.person, reads.c.view).where(
            reads.c.person.in_(part), reads.c.view.is_not(None)
        )
        views.update((person, view) for person, view in c.execute(query))
    return views


def _entry(
    number: int,
    key: PersonKey,
    row: PersonRow | None,
    views: Mapping[int, bytes],
    now: Millis,
) -> Entry:
    return Entry(
        seq=row.id if row else -number,
        unique_id=(row.platform_id if row else None) or key.person or "",
        name="read",
        occurred_at=now,
        received_at=now,
        email=key.email or (row.email if row else None),
        person=row.id if row else None,
        data=views.get(row.id, b"") if row else b"",
        attempts=1,
        mode=DeliveryMode.BATCH,
        mapping=None,
        backfill=True,
    )
