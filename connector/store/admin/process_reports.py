"""What the process that holds a lease last reported about itself."""

from __future__ import annotations

from sqlalchemy import Connection, select

from connector.domain.lanes import Millis
from connector.store.database import Database
from connector.store.statements import upsert
from connector.store.tables import process_reports


class SqlProcessReports:
    """connector.ports.ProcessReports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, resource: str, document: str, *, now: Millis) -> None:
        def work(c: Connection) -> None:
            statement = upsert(c.dialect.name, process_reports).values(
                resource=resource, saved_at=now, document=document
            )
            new = statement.excluded
            c.execute(
                statement.on_conflict_do_update(
                    index_elements=["resource"],
                    set_={"saved_at": new.saved_at, "document": new.document},
                )
            )

        await self._database.write(work)

    async def load(self, resource: str) -> tuple[str, Millis] | None:
        query = select(process_reports.c.document, process_reports.c.saved_at).where(
            process_reports.c.resource == resource
        )

        def work(c: Connection) -> tuple[str, Millis] | None:
            row = c.execute(query).first()
            return (row.document, Millis(row.saved_at)) if row else None

        return await self._database.read(work)
