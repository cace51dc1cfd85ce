"""At most one holder per resource, fenced by a token that grows (guarantee 12)."""

from __future__ import annotations

from typing import Literal, NamedTuple

from sqlalchemy import Connection, select, update

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Millis
from connector.ports import Fence, Holder
from connector.store.database import Database
from connector.store.prepared import Prepared, param
from connector.store.statements import upsert
from connector.store.tables import leases

Lock = Literal["shared", "exclusive"] | None


class _LeaseRow(NamedTuple):
    """A stored lease. The names are those of the columns."""

    holder: str
    token: int
    expires_at: Millis

    @classmethod
    def load(cls, c: Connection, resource: str, *, lock: Lock = None) -> _LeaseRow | None:
        row = _LOAD[lock].first(c, resource=resource)
        return cls._make(row) if row else None


_QUERY = select(*(leases.c[name] for name in _LeaseRow._fields)).where(
    leases.c.resource == param("resource")
)
_LOAD: dict[Lock, Prepared] = {
    None: Prepared(_QUERY),
    "shared": Prepared(_QUERY.with_for_update(read=True)),
    "exclusive": Prepared(_QUERY.with_for_update()),
}


def require_lease(c: Connection, fence: Fence, now: Millis, *, lock: Lock = "shared") -> None:
    """Raise StoreError(STORE_HELD) unless this fence is the newest and has not expired. No other
    process can acquire the lease before this transaction ends. With an exclusive `lock` every
    other transaction that requires the lease has ended."""
    row = _LeaseRow.load(c, fence.resource, lock=lock)
    if row is None or row.token != fence.token or row.holder != fence.holder:
        holder = row.holder if row else "no process"
        raise StoreError(Problem.STORE_HELD, f"{fence.resource} is held by {holder}")
    if row.expires_at <= now:
        raise StoreError(Problem.STORE_HELD, f"our lease of {fence.resource} has expired")


class SqlLeases:
    """connector.ports.Leases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(
        self, resource: str, holder: str, *, now: Millis, ttl: int, dead_holder: str | None = None
    ) -> Fence | Holder:
        def work(c: Connection) -> Fence | Holder:
            row = _LeaseRow.load(c, resource, lock="exclusive")
            if row is None:
                values = {"resource": resource, "holder": holder, "token": 1}
                first = upsert(c.dialect.name, leases).on_conflict_do_nothing()
                if c.execute(first.values(values | {"expires_at": now + ttl})).rowcount:
                    return Fence(resource, holder, 1)
                row = _LeaseRow.load(c, resource, lock="exclusive")
                assert row is not None, "another process has just inserted it"
            if row.holder not in (holder, dead_holder) and row.expires_at > now:
                return Holder(row.holder, row.expires_at)
            c.execute(
                update(leases)
                .where(leases.c.resource == resource)
                .values(holder=holder, token=row.token + 1, expires_at=now + ttl)
            )
            return Fence(resource, holder, row.token + 1)

        return await self._database.write(work)

    async def renew(self, fence: Fence, *, now: Millis, ttl: int) -> bool:
        return await self._database.write(lambda c: _update_own(c, fence, now + ttl) == 1)

    async def release(self, fence: Fence) -> None:
        await self._database.write(lambda c: _update_own(c, fence, 0))

    async def holder(self, resource: str) -> Holder | None:
        def work(c: Connection) -> Holder | None:
            row = _LeaseRow.load(c, resource)
            return Holder(row.holder, row.expires_at) if row else None

        return await self._database.read(work)


def _update_own(c: Connection, fence: Fence, expires_at: int) -> int:
    return c.execute(
        update(leases)
        .where(
            leases.c.resource == fence.resource,
            leases.c.token == fence.token,
            leases.c.holder == fence.holder,
        )
        .values(expires_at=expires_at)
    ).rowcount
