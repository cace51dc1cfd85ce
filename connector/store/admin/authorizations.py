"""OAuth authorizations under way, each used once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from connector.domain.lanes import Millis
from connector.ports.secrets import Authorization
from connector.store.database import Database
from connector.store.tables import authorizations

_KEEP = 86_400_000
_FIELDS = tuple(Authorization.__dataclass_fields__)
_COLUMNS = tuple(authorizations.c[name] for name in _FIELDS)


def _load(row: Any) -> Authorization:
    values = dict(zip(_FIELDS, row, strict=True))
    outcome = values["outcome"]
    return Authorization(**{**values, "outcome": orjson.loads(outcome) if outcome else None})


class SqlAuthorizations:
    """connector.ports.Authorizations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, authorization: Authorization) -> None:
        values = {name: getattr(authorization, name) for name in _FIELDS}
        old = authorizations.c.expires_at < authorization.created_at - _KEEP

        def work(c: Connection) -> None:
            c.execute(delete(authorizations).where(old))
            c.execute(insert(authorizations).values(values))

        await self._database.write(work)

    async def get(self, digest: str) -> Authorization | None:
        query = select(*_COLUMNS).where(authorizations.c.digest == digest)

        def work(c: Connection) -> Authorization | None:
            row = c.execute(query).one_or_none()
            return _load(row) if row else None

        return await self._database.read(work)

    async def take(self, digest: str, *, now: Millis) -> bool:
        statement = (
            update(authorizations)
            .where(
                authorizations.c.digest == digest,
                authorizations.c.used_at.is_(None),
                authorizations.c.expires_at > now,
            )
            .values(used_at=now)
        )
        return await self._database.write(lambda c: c.execute(statement).rowcount == 1)

    async def finish(self, digest: str, outcome: Mapping[str, Any]) -> None:
        statement = (
            update(authorizations)
            .where(authorizations.c.digest == digest)
            .values(outcome=orjson.dumps(outcome).decode())
        )
        await self._database.write(lambda c: c.execute(statement))

    async def latest(self, connection: str, *, since: Millis) -> Authorization | None:
        query = (
            select(*_COLUMNS)
            .where(
                authorizations.c.connection == connection,
                authorizations.c.created_at >= since,
                authorizations.c.outcome.is_not(None),
            )
            .order_by(authorizations.c.created_at.desc())
            .limit(1)
        )

        def work(c: Connection) -> Authorization | None:
            row = c.execute(query).one_or_none()
            return _load(row) if row else None

        return await self._database.read(work)
