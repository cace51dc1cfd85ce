"""Notifications that were sent to the targets of `[[notify]]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, insert, select

from connector.domain.lanes import Millis
from connector.store.database import Database
from connector.store.tables import notifications


class SqlNotifications:
    """connector.ports.Notifications."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sent(self, target: str) -> Mapping[str, str]:
        query = select(notifications.c.key, notifications.c.text).where(
            notifications.c.target == target
        )
        return await self._database.read(lambda c: {row.key: row.text for row in c.execute(query)})

    async def record(
        self, target: str, new: Mapping[str, str], *, resolved: Sequence[str], now: Millis
    ) -> None:
        rows = [
            {"target": target, "key": key, "text": text, "sent_at": now}
            for key, text in new.items()
        ]

        def work(c: Connection) -> None:
            of_target = notifications.c.target == target
            c.execute(
                delete(notifications).where(of_target, notifications.c.key.in_([*resolved, *new]))
            )
            if rows:
                c.execute(insert(notifications), rows)

        await self._database.write(work)
