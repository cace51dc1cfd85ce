"""At most one holder per resource, fenced by a token that grows (guarantee 12)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    cast,
    func,
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
        row = _STATEMENTS.load[lock].first(c, resource=resource, now=now)
        return (cls._make(row[:-1]), row[-1]) if row else None


_COLUMNS = tuple(leases.c[name] for name in _LeaseRow._fields)


def store_time(dialect: str, now: ColumnElement[Any]) -> ColumnElement[Any]:
    """Milliseconds since 1970 by the clock that everyone who uses this store shares."""
    if dialect != "postgresql":
        return now
    return cast(func.extract("epoch", func.clock_timestamp()) * 1000, BigInteger)


class LeaseStatements:
    """Their time is `time` of the dialect and of the parameter `now`."""

    def __init__(
        self, time: Callable[[str, ColumnElement[Any]], ColumnElement[Any]] = store_time
    ) -> None:
        def now(dialect: str) -> ColumnElement[Any]:
            return time(dialect, param("now", BigInteger))

        def load(dialect: str) -> Select[Any]:
            return select(*_COLUMNS, now(dialect)).where(leases.c.resource == param("resource"))

        def expiry(dialect: str) -> dict[str, Any]:
            return {"expires_at": now(dialect) + param("ttl", BigInteger)}

        holder, token = param("holder"), param("token")
        first = {"resource": param("resource"), "holder": holder, "token": 1}
        of_resource = update(leases).where(leases.c.resource == param("resource"))
        of_fence = of_resource.where(leases.c.token == token, leases.c.holder == holder)
        self.load: Mapping[Lock, Prepared] = {
            None: Prepared(load),
            "shared": Prepared(lambda dialect: load(dialect).with_for_update(read=True)),
            "exclusive": Prepared(lambda dialect: load(dialect).with_for_update()),
        }
        self.insert = Prepared(
            lambda dialect: (
                upsert(dialect, leases).on_conflict_do_nothing().values(first | expiry(dialect))
            )
        )
        self.take = Prepared(
            lambda dialect: of_resource.values({"holder": holder, "token": token} | expiry(dialect))
        )
        # A renewal that a release has overtaken would keep the lease from others.
        of_unreleased = of_fence.where(leases.c.expires_at > 0)
        self.renew = Prepared(lambda dialect: of_unreleased.values(expiry(dialect)))
        self.release = Prepared(of_fence.values(expires_at=0))
        self.holders = Prepared(lambda dialect: select(*_COLUMNS, now(dialect)))
        self.time = Prepared(lambda dialect: select(now(dialect)))


_STATEMENTS = LeaseStatements()


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


class SqlLeases:
    """connector.ports.Leases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(
        self, resource: str, holder: str, *, now: Millis, ttl: int, dead_holder: str | None = None
    ) -> Fence | Holder:
        def work(c: Connection) -> Fence | Holder:
            given = {"resource": resource, "holder": holder, "now": now, "ttl": ttl}
            found = _LeaseRow.load(c, resource, now, lock="exclusive")
            if found is None:
                if _STATEMENTS.insert.run(c, **given):
                    return Fence(resource, holder, 1)
                found = _LeaseRow.load(c, resource, now, lock="exclusive")
                assert found is not None, "another process has just inserted it"
            row, at = found
            if row.holder not in (holder, dead_holder) and row.expires_at > at:
                return Holder(row.holder, row.expires_at, expired=False)
            _STATEMENTS.take.run(c, token=row.token + 1, **given)
            return Fence(resource, holder, row.token + 1)

        return await self._database.write(work)

    async def renew(self, fences: Collection[Fence], *, now: Millis, ttl: int) -> frozenset[Fence]:
        def work(c: Connection) -> frozenset[Fence]:
            return _for_newest(c, _STATEMENTS.renew, fences, now=now, ttl=ttl)

        return await self._database.write(work)

    async def release(self, fences: Collection[Fence]) -> None:
        await self._database.write(lambda c: _for_newest(c, _STATEMENTS.release, fences))

    async def holders(self, *, now: Millis) -> Mapping[str, Holder]:
        def work(c: Connection) -> dict[str, Holder]:
            found = _STATEMENTS.holders.rows(c, now=now)
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
            return Millis(_STATEMENTS.time.first(c, now=0)[0])

        return await self._database.read(work)


def _for_newest(
    c: Connection, change: Prepared, fences: Collection[Fence], **values: int
) -> frozenset[Fence]:
    """Change the leases of these fences; those that are still the newest of their resource."""
    ordered = sorted(fences, key=lambda fence: fence.resource)
    return frozenset(
        fence
        for fence in ordered
        if change.run(c, resource=fence.resource, token=fence.token, holder=fence.holder, **values)
    )
