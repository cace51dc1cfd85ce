"""The people of a connection in the order of their numbers, in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from connector.ports import PersonKey
from connector.store import counters
from connector.store.database import Database
from connector.store.tables import people


class SqlPeopleIndex:
    """connector.ports.PeopleIndex."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, connection: str, *, after: int, limit: int
    ) -> Sequence[tuple[int, PersonKey]]:
        query = (
            select(people.c.id, people.c.platform_id, people.c.email)
            .where(people.c.connection == connection, people.c.id > after)
            .order_by(people.c.id)
            .limit(limit)
        )
        return await self._database.read(
            lambda c: [
                (id, PersonKey(platform_id, email)) for id, platform_id, email in c.execute(query)
            ]
        )

    async def count(self, connection: str) -> int:
        return await self._database.read(
            lambda c: sum(counters.load(c, "people", connection).values())
        )
