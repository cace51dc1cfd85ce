"""The log of what people changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, delete, insert, select

from connector.domain.lanes import Millis
from connector.ports.settings import AuditEntry
from connector.store.database import Database
from connector.store.tables import audit

_COLUMNS = tuple(audit.c[name] for name in AuditEntry.__dataclass_fields__)


def add_audit_entry(c: Connection, entry: AuditEntry) -> None:
    values = {
        "at": entry.at,
        "by": entry.by,
        "what": entry.what,
        "connection": entry.connection,
        "subject": entry.subject,
        "before": orjson.dumps(entry.before).decode(),
        "after": orjson.dumps(entry.after).decode(),
        "error": entry.error,
    }
    c.execute(insert(audit).values(values))


def _load(row: Any) -> AuditEntry:
    values = dict(zip(AuditEntry.__dataclass_fields__, row, strict=True))
    values["before"], values["after"] = (orjson.loads(values[key]) for key in ("before", "after"))
    return AuditEntry(**values)


class SqlAudit:
    """connector.ports.Audit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, entry: AuditEntry) -> None:
        await self._database.write(lambda c: add_audit_entry(c, entry))

    async def find(
        self, *, connection: str | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[AuditEntry]:
        query = select(*_COLUMNS).order_by(audit.c.id.desc()).limit(limit)
        if connection is not None:
            query = query.where(audit.c.connection == connection)
        if before is not None:
            query = query.where(audit.c.id < before)
        return await self._database.read(lambda c: [_load(row) for row in c.execute(query)])

    async def prune(self, *, before: Millis, limit: int) -> int:
        old = select(audit.c.id).where(audit.c.at < before).order_by(audit.c.at).limit(limit)

        def work(c: Connection) -> int:
            ids = list(c.execute(old).scalars())
            if ids:
                c.execute(delete(audit).where(audit.c.id.in_(ids)))
            return len(ids)

        return await self._database.write(work)
