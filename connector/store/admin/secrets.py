"""Encrypted secrets, replaced by compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from connector.domain.lanes import Millis
from connector.ports.secrets import StoredSecret
from connector.store.database import Database
from connector.store.tables import secrets


class _SecretRow(NamedTuple):
    """A stored secret. The names are those of the columns."""

    owner: str
    name: str
    sealed: str
    info: str
    version: int
    claim: str | None
    attempts: str

    def secret(self) -> StoredSecret:
        return StoredSecret(
            owner=self.owner,
            name=self.name,
            sealed=self.sealed,
            info=orjson.loads(self.info),
            version=self.version,
            claim=self.claim,
            attempts=tuple(orjson.loads(self.attempts)),
        )


_COLUMNS = tuple(secrets.c[name] for name in _SecretRow._fields)


def _of(owner: str, name: str) -> Any:
    return (secrets.c.owner == owner) & (secrets.c.name == name)


class SqlSecrets:
    """connector.ports.Secrets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, owner: str, name: str) -> StoredSecret | None:
        query = select(*_COLUMNS).where(_of(owner, name))

        def work(c: Connection) -> StoredSecret | None:
            row = c.execute(query).one_or_none()
            return _SecretRow._make(row).secret() if row else None

        return await self._database.read(work)

    async def all(self) -> Sequence[StoredSecret]:
        query = select(*_COLUMNS).order_by(secrets.c.owner, secrets.c.name)
        return await self._database.read(
            lambda c: [_SecretRow._make(row).secret() for row in c.execute(query)]
        )

    async def put(
        self,
        owner: str,
        name: str,
        sealed: str,
        info: Mapping[str, Any],
        *,
        now: Millis,
        version: int | None = None,
    ) -> int | None:
        values = {"sealed": sealed, "info": orjson.dumps(info).decode(), "updated_at": now}
        return await self._database.write(
            lambda c: put_secret(c, owner, name, values, version=version)
        )

    async def claim(
        self, secret: StoredSecret, claim: str, *, attempts: Sequence[Millis], over: str | None
    ) -> bool:
        free = secrets.c.claim.is_(None)
        statement = (
            update(secrets)
            .where(
                _of(secret.owner, secret.name),
                secrets.c.version == secret.version,
                free if over is None else free | (secrets.c.claim == over),
            )
            .values(claim=claim, attempts=orjson.dumps(list(attempts)).decode())
        )
        return await self._database.write(lambda c: c.execute(statement).rowcount == 1)

    async def release(self, owner: str, name: str, claim: str) -> None:
        statement = (
            update(secrets).where(_of(owner, name), secrets.c.claim == claim).values(claim=None)
        )
        await self._database.write(lambda c: c.execute(statement))

    async def delete(self, owner: str, name: str) -> bool:
        statement = delete(secrets).where(_of(owner, name))
        return await self._database.write(lambda c: c.execute(statement).rowcount == 1)


def put_secret(
    c: Connection, owner: str, name: str, values: Mapping[str, Any], *, version: int | None
) -> int | None:
    """Secrets.put within a transaction."""
    query = select(secrets.c.version).where(_of(owner, name)).with_for_update()
    found = c.execute(query).scalar_one_or_none()
    if version is not None and version != (found or 0):
        return None
    new = (found or 0) + 1
    if found is None:
        c.execute(insert(secrets).values(owner=owner, name=name, version=new, **values))
    else:
        changed = {**values, "version": new, "claim": None}
        c.execute(update(secrets).where(_of(owner, name)).values(changed))
    return new
