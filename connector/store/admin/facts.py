"""Small durable facts: quota usage, throughput, mapping versions in use, pinned accounts,
checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, select

from connector.domain.lanes import LaneId, Millis, MinuteCount, QuotaUsage
from connector.domain.records import Checkpoint
from connector.store.database import Database
from connector.store.prepared import Prepared, param
from connector.store.statements import Upsert, upsert
from connector.store.tables import accounts, checkpoints, mappings, quota_usage, throughput

_DAY = 86_400
_DAY_OF_MINUTES = 1_440


def add_quota_usage(c: Connection, usage: Sequence[QuotaUsage]) -> None:
    """Add to the stored seconds; those older than a day are deleted about once a minute."""
    if not usage:
        return
    _ADD_USAGE.run_all(
        c,
        [
            {"account": s.account, "endpoint": s.endpoint, "second": s.second, "count": s.count}
            for s in usage
        ],
    )
    newest = max(s.second for s in usage)
    if newest % 60 == 0:
        c.execute(delete(quota_usage).where(quota_usage.c.second < newest - _DAY))


def _add_usage(dialect: str) -> Upsert:
    columns = ("account", "endpoint", "second", "count")
    statement = upsert(dialect, quota_usage).values({name: param(name) for name in columns})
    return statement.on_conflict_do_update(
        index_elements=["account", "endpoint", "second"],
        set_={"count": quota_usage.c.count + statement.excluded.count},
    )


_ADD_USAGE = Prepared(_add_usage)
_USAGE_SINCE = Prepared(
    select(quota_usage)
    .where(
        quota_usage.c.account == param("account"),
        quota_usage.c.endpoint.in_(param("endpoints", expanding=True)),
        quota_usage.c.second >= param("second"),
    )
    .order_by(quota_usage.c.endpoint, quota_usage.c.second),
    many="endpoints",
)
_PINNED_ACCOUNTS = Prepared(select(accounts.c.connection, accounts.c.account))


def _add_throughput(dialect: str) -> Upsert:
    columns = {name: param(name) for name in MinuteCount._fields}
    statement = upsert(dialect, throughput).values(columns)
    return statement.on_conflict_do_update(
        index_elements=["lane", "minute"],
        set_={"entries": throughput.c.entries + statement.excluded.entries},
    )


_ADD_THROUGHPUT = Prepared(_add_throughput)
_DELETE_THROUGHPUT = Prepared(delete(throughput).where(throughput.c.minute <= param("minute")))


def save_checkpoint(c: Connection, connection: str, checkpoint: Checkpoint, at: Millis) -> None:
    """Call it in the transaction that stores what the cursor covers."""
    statement = upsert(c.dialect.name, checkpoints).values(
        connection=connection, stream=checkpoint.stream, cursor=checkpoint.cursor, saved_at=at
    )
    new = statement.excluded
    c.execute(
        statement.on_conflict_do_update(
            index_elements=["connection", "stream"],
            set_={"cursor": new.cursor, "saved_at": new.saved_at},
        )
    )


class SqlFacts:
    """connector.ports.Facts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def usage_since(self, account: str, since: Mapping[str, int]) -> Sequence[QuotaUsage]:
        endpoints: defaultdict[int, list[str]] = defaultdict(list)
        for endpoint, second in since.items():
            endpoints[second].append(endpoint)

        def work(c: Connection) -> list[QuotaUsage]:
            return [
                QuotaUsage(*row)
                for second, of_second in endpoints.items()
                for row in _USAGE_SINCE.rows(c, account=account, endpoints=of_second, second=second)
            ]

        return await self._database.read(work)

    async def save_usage(self, usage: Sequence[QuotaUsage]) -> None:
        await self._database.write(lambda c: add_quota_usage(c, usage))

    async def add_throughput(self, counts: Sequence[MinuteCount]) -> None:
        if not counts:
            return
        newest = max(each.minute for each in counts)

        def work(c: Connection) -> None:
            _ADD_THROUGHPUT.run_all(c, [each._asdict() for each in counts])
            _DELETE_THROUGHPUT.run(c, minute=newest - _DAY_OF_MINUTES)

        await self._database.write(work)

    async def throughput(self, *, since_minute: int) -> Sequence[MinuteCount]:
        t = throughput.c
        query = select(t.lane, t.minute, t.entries).where(t.minute >= since_minute)

        def work(c: Connection) -> list[MinuteCount]:
            return [MinuteCount(LaneId(lane), at, n) for lane, at, n in c.execute(query)]

        return await self._database.read(work)

    async def save_mapping(self, version: str, text: str, *, now: Millis) -> None:
        def work(c: Connection) -> None:
            if c.execute(select(mappings.c.version).where(mappings.c.version == version)).first():
                return
            row = {"version": version, "text": text, "first_used": now}
            c.execute(upsert(c.dialect.name, mappings).on_conflict_do_nothing().values(row))

        await self._database.write(work)

    async def mapping(self, version: str) -> str | None:
        def work(c: Connection) -> str | None:
            query = select(mappings.c.text).where(mappings.c.version == version)
            return c.execute(query).scalar_one_or_none()

        return await self._database.read(work)

    async def pinned_account(self, connection: str) -> str | None:
        query = select(accounts.c.account).where(accounts.c.connection == connection)
        return await self._database.read(lambda c: c.execute(query).scalar_one_or_none())

    async def pinned_accounts(self) -> Mapping[str, str]:
        return await self._database.read(lambda c: dict(_PINNED_ACCOUNTS.rows(c)))

    async def pin_account(self, connection: str, account: str, *, force: bool = False) -> str:
        def work(c: Connection) -> str:
            if force:
                c.execute(delete(accounts).where(accounts.c.connection == connection))
            query = select(accounts.c.account).where(accounts.c.connection == connection)
            pinned: str | None = c.execute(query).scalar_one_or_none()
            if pinned is None:
                row = {"connection": connection, "account": account, "pinned_at": 0}
                # Another replica may have done so meanwhile.
                c.execute(upsert(c.dialect.name, accounts).on_conflict_do_nothing().values(row))
                pinned = c.execute(query).scalar_one_or_none()
            return pinned or account

        return await self._database.write(work)


class SqlCheckpoints:
    """connector.ports.Checkpoints."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, connection: str, stream: str) -> Checkpoint | None:
        def work(c: Connection) -> Checkpoint | None:
            cursor = c.execute(
                select(checkpoints.c.cursor).where(
                    checkpoints.c.connection == connection, checkpoints.c.stream == stream
                )
            ).scalar_one_or_none()
            return Checkpoint(stream, cursor) if cursor is not None else None

        return await self._database.read(work)
