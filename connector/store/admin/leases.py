"""At most one holder per resource, fenced by a token that grows (guarantee 12)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    cast,
    func,
    literal,
    select,
    update,
)

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

    resource: str
    holder: str
    token: int
    expires_at: Millis

    @classmethod
    def load(
        cls, c: Connection, resource: str, now: Millis, *, lock: Lock = None
    ) -> tuple[_LeaseRow, Millis] | None:
        """The lease and the time by the store's clock."""
        row = _LOAD[lock].first(c, resource=resource, now=now)
        return (cls._make(row[:-1]), row[-1]) if row else None


_COLUMNS = tuple(leases.c[name] for name in _LeaseRow._fields)


def store_time(dialect: str, now: ColumnElement[Any]) -> ColumnElement[Any]:
    """Milliseconds since 1970 by the clock that everyone who uses this store shares."""
    if dialect != "postgresql":
        return now
    return cast(func.extract("epoch", func.clock_timestamp()) * 1000, BigInteger)


def load_statements() -> dict[Lock, Prepared]:
    """By the lock that they take."""

    def query(dialect: str) -> Select[Any]:
        time = store_time(dialect, param("now", BigInteger))
        return select(*_COLUMNS, time).where(leases.c.resource == param("resource"))

    return {
        None: Prepared(query),
        "shared": Prepared(lambda dialect: query(dialect).with_for_update(read=True)),
        "exclusive": Prepared(lambda dialect: query(dialect).with_for_update()),
    }


_LOAD = load_statements()


def require_lease(c: Connection, fence: Fence, now: Millis, *, lock: Lock = "shared") -> None:
    """Raise StoreError(STORE_HELD) unless this fence is the newest and has not expired. No other
    process can acquire the lease before this transaction ends. With an exclusive `lock` every
    other transaction that requires the lease has ended."""
    found = _LeaseRow.load(c, fence.resource, now, lock=lock)
    row, time = found or (None, now)
    if row is None or row.token != fence.token or row.holder != fence.holder:
        holder = row.holder if row else "no process"
        raise StoreError(Problem.STORE_HELD, f"{fence.resource} is held by {holder}")
    if row.expires_at <= time:
        raise StoreError(Problem.STORE_HELD, f"our lease of {fence.resource} has expired")


def _time(c: Connection, now: Millis) -> ColumnElement[Any]:
    return store_time(c.dialect.name, literal(int(now), BigInteger))


class SqlLeases:
    """connector.ports.Leases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(
        self, resource: str, holder: str, *, now: Millis, ttl: int, dead_holder: str | None = None
    ) -> Fence | Holder:
        def work(c: Connection) -> Fence | Holder:
            time = _time(c, now)
            found = _LeaseRow.load(c, resource, now, lock="exclusive")
            if found is None:
                values = {"resource": resource, "holder": holder, "token": 1}
                first = upsert(c.dialect.name, leases).on_conflict_do_nothing()
                if c.execute(first.values(values | {"expires_at": time + ttl})).rowcount:
                    return Fence(resource, holder, 1)
                found = _LeaseRow.load(c, resource, now, lock="exclusive")
                assert found is not None, "another process has just inserted it"
            row, at = found
            if row.holder not in (holder, dead_holder) and row.expires_at > at:
                return Holder(row.holder, row.expires_at, expired=False)
            c.execute(
                update(leases)
                .where(leases.c.resource == resource)
                .values(holder=holder, token=row.token + 1, expires_at=time + ttl)
            )
            return Fence(resource, holder, row.token + 1)

        return await self._database.write(work)

    async def renew(self, fences: Collection[Fence], *, now: Millis, ttl: int) -> frozenset[Fence]:
        def work(c: Connection) -> frozenset[Fence]:
            return _set_expiry(c, fences, _time(c, now) + ttl)

        return await self._database.write(work)

    async def release(self, fences: Collection[Fence]) -> None:
        await self._database.write(lambda c: _set_expiry(c, fences, literal(0)))

    async def holders(self, *, now: Millis) -> Mapping[str, Holder]:
        def work(c: Connection) -> dict[str, Holder]:
            found = c.execute(select(*_COLUMNS, _time(c, now)))
            rows = [(_LeaseRow._make(row[:-1]), row[-1]) for row in found]
            return {
                row.resource: Holder(row.holder, row.expires_at, row.expires_at <= time)
                for row, time in rows
            }

        return await self._database.read(work)

    async def database_time(self) -> Millis | None:
        def work(c: Connection) -> Millis | None:
            if c.dialect.name != "postgresql":
                return None
            return Millis(c.execute(select(_time(c, Millis(0)))).scalar_one())

        return await self._database.read(work)


def _set_expiry(
    c: Connection, fences: Collection[Fence], expires_at: ColumnElement[Any]
) -> frozenset[Fence]:
    """Those that are still the newest of their resource."""
    held = []
    for fence in sorted(fences, key=lambda fence: fence.resource):
        changed = c.execute(
            update(leases)
            .where(
                leases.c.resource == fence.resource,
                leases.c.token == fence.token,
                leases.c.holder == fence.holder,
            )
            .values(expires_at=expires_at)
        ).rowcount
        held += [fence] if changed else []
    return frozenset(held)
