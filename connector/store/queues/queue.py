"""What outbox, reads and profiles have in common as queues: the same columns, the same road from
ready to claimed and back. Each statement is one intent."""

from __future__ import annotations

import functools
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    ScalarSelect,
    Select,
    Table,
    bindparam,
    exists,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis, QuotaUsage
from connector.domain.outcomes import Outcome, Request
from connector.domain.records import Claim, Entry, State
from connector.ports import Fence, OpenReceipt, ReadyCounts
from connector.store.admin import facts, leases
from connector.store.database import Database
from connector.store.tables import in_state, memberships, profiles, requests

_MAX_IN = 10_000


def ready(
    c: Connection,
    table: Table,
    key: Column[Any],
    lane: LaneId,
    now: Millis,
    limit: int,
    *,
    fresh: tuple[Any, ...] = (),
) -> ReadyCounts:
    """How many could be claimed now, counted up to `limit`, and when the next becomes due. `fresh`
    is what else holds of those that were never sent."""
    row = c.execute(
        _ready_query(table, key, fresh), {"lane": lane, "now": now, "most": limit}
    ).one()
    due = [at for at in row[4:] if at is not None]
    return ReadyCounts(row[0], row[1], Millis(min(due)) if due else None, row[2], row[3])


@functools.cache
def _ready_query(table: Table, key: Column[Any], fresh: tuple[Any, ...]) -> Select[Any]:
    """One statement for all that a lane asks at every turn, made once: eight of them, made and
    sent each time, were a fifth of a backfill's CPU."""
    kinds = [(solo, priority) for priority in (0, 1) for solo in (0, 1)]

    def of(solo: int, priority: int) -> tuple[Any, ...]:
        return (
            table.c.lane == bindparam("lane"),
            in_state(State.READY, table),
            table.c.solo == solo,
            table.c.priority == priority,
        )

    def count(solo: int, priority: int) -> ScalarSelect[int]:
        more = () if solo else fresh
        ready = select(key).where(*of(solo, priority), table.c.due <= bindparam("now"), *more)
        found = ready.limit(bindparam("most", type_=Integer)).subquery()
        return select(func.count()).select_from(found).scalar_subquery()

    def later(solo: int, priority: int) -> ScalarSelect[int]:
        due = select(func.min(table.c.due))
        return due.where(*of(solo, priority), table.c.due > bindparam("now")).scalar_subquery()

    counts = [count(*kind).label(f"count{n}") for n, kind in enumerate(kinds)]
    times = [later(*kind).label(f"later{n}") for n, kind in enumerate(kinds)]
    return cast("Select[Any]", select(*counts, *times))


def claim(
    c: Connection,
    table: Table,
    key: Column[Any],
    spec: ClaimSpec,
    *,
    values: dict[str, Any],
    returning: tuple[Any, ...],
    conditions: tuple[Any, ...] = (),
) -> list[Any]:
    """Claim the oldest ready rows, live before backfill; rows in the order of their key."""
    rows: list[Any] = []
    priorities = (0, 1) if spec.backfill is None else (int(spec.backfill),)
    for priority in priorities:
        if len(rows) >= spec.limit:
            break
        oldest = (
            select(key)
            .where(
                table.c.lane == spec.lane,
                in_state(State.READY, table),
                table.c.solo == int(spec.solo),
                table.c.priority == priority,
                table.c.due <= spec.now,
                *conditions,
            )
            .order_by(table.c.due, key)
            .limit(spec.limit - len(rows))
            .with_for_update(skip_locked=True)
        )
        statement = (
            update(table)
            .where(key.in_(oldest))
            .values(state=State.CLAIMED, claim=spec.token, attempts=table.c.attempts + 1, **values)
            .returning(*returning)
        )
        rows += sorted(c.execute(statement), key=lambda row: row._mapping[key])
    return rows


def extend(c: Connection, table: Table, lane: LaneId, pause: int) -> int:
    """Time in a pause does not count against the retry horizon."""
    return c.execute(
        update(table)
        .where(
            table.c.lane == lane,
            in_state(State.READY, table),
            table.c.failing_since.is_not(None),
        )
        .values(failing_since=table.c.failing_since + pause)
    ).rowcount


RESET = {"claim": None, "problem": None, "detail": "", "settled_at": None}
"""The columns of a row that begins again."""


def settled(state: State, now: Millis) -> dict[str, Any]:
    """The columns of a row that has reached an end."""
    return {"state": state, "claim": None, "settled_at": now, "problem": None, "detail": ""}


def recover(c: Connection, table: Table, now: Millis, **values: Any) -> int:
    """What holders that are gone had claimed is ready again, and in doubt."""
    return c.execute(
        update(table)
        .where(in_state(State.CLAIMED, table))
        .values(
            state=State.READY,
            claim=None,
            due=now,
            problem=Problem.INTERRUPTED.value,
            failing_since=func.coalesce(table.c.failing_since, now),
            **values,
        )
    ).rowcount


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _MAX_IN):
        yield values[start : start + _MAX_IN]


def save_requests(c: Connection, lane: LaneId, sent: Sequence[Request]) -> None:
    """Known ones are left as they are: the answer to a first commit may have been lost."""
    if sent:
        dialect = postgresql if c.dialect.name == "postgresql" else sqlite
        c.execute(
            dialect.insert(requests).on_conflict_do_nothing(),
            [
                {
                    "id": request.id,
                    "lane": lane,
                    "endpoint": request.endpoint,
                    "sent_at": request.sent_at,
                    "status": request.status,
                    "millis": request.millis,
                    "problem": request.problem.value if request.problem else None,
                }
                for request in sent
            ],
        )


@dataclass(frozen=True, slots=True)
class ClaimSpec:
    """A claim in the making: what it is called, when, how many and which kind."""

    lane: LaneId
    token: int
    now: Millis
    limit: int
    solo: bool
    mapping: str
    backfill: bool | None = None


class SqlQueue(ABC):
    """connector.ports.Queue over one table; what differs is how rows are taken and settled."""

    def __init__(self, database: Database, table: Table, key: Column[Any]) -> None:
        self._database = database
        self._table = table
        self._key = key

    @abstractmethod
    def _claim_entries(self, c: Connection, spec: ClaimSpec) -> list[Entry]:
        """Claim rows under `taking.token` and make entries of them."""

    @abstractmethod
    def _settle(
        self, c: Connection, claim: Claim, outcomes: Sequence[Outcome], now: Millis, horizon: int
    ) -> int:
        """Write outcomes to the rows that this claim still holds; how many changed."""

    @abstractmethod
    def _recover(self, c: Connection, now: Millis) -> int:
        """What holders that are gone had claimed; how many."""

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        return await self._database.read(
            lambda c: ready(c, self._table, self._key, lane, now, limit)
        )

    async def claim(
        self,
        lane: Lane,
        fence: Fence,
        *,
        now: Millis,
        limit: int,
        solo: bool,
        mapping: str,
        usage: Sequence[QuotaUsage] = (),
        backfill: bool | None = None,
    ) -> Claim | None:
        spec = ClaimSpec(lane.id, secrets.randbits(62), now, limit, solo, mapping, backfill)

        def work(c: Connection) -> Claim | None:
            leases.require_lease(c, fence, now)
            facts.add_quota_usage(c, usage)
            entries = self._claim_entries(c, spec)
            return Claim(spec.token, lane, entries) if entries else None

        return await self._database.write(work)

    async def settle(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        now: Millis,
        requests: Sequence[Request] = (),
        horizon: int,
    ) -> int:
        def work(c: Connection) -> int:
            save_requests(c, claim.lane.id, requests)
            return self._settle(c, claim, outcomes, now, horizon)

        return await self._database.write(work)

    async def recover(self, fence: Fence, *, now: Millis) -> int:
        def work(c: Connection) -> int:
            leases.require_lease(c, fence, now)
            return self._recover(c, now)

        return await self._database.write(work)

    async def extend_horizon(self, lane: LaneId, pause: int) -> int:
        return await self._database.write(lambda c: extend(c, self._table, lane, pause))


def is_joining_list(address: Column[Any]) -> ColumnElement[bool]:
    """Whether the person of this address is being told to join a list: an import job holds him."""
    joining = memberships.alias("joining")
    return exists(
        select(literal(1)).where(
            joining.c.address == address, in_state(State.CLAIMED, joining), joining.c.sent == 1
        )
    )


class ReceiptedQueue(SqlQueue):
    """connector.ports.Receipted over one table: entries that an import job holds in flight.

    `told_at` is the column that says when such an entry was told."""

    def __init__(
        self, database: Database, table: Table, key: Column[Any], sent_at: Column[Any]
    ) -> None:
        super().__init__(database, table, key)
        self._sent_at = sent_at

    @abstractmethod
    def _rows_of_receipt(self, lane: LaneId, receipt: str) -> Any:
        """The query for rows of this receipt, in the order of their key."""

    @abstractmethod
    def _close(
        self,
        c: Connection,
        rows: Sequence[Any],
        now: Millis,
        failed: Mapping[int, tuple[Problem, str]],
    ) -> None:
        """The job that held these rows is over: `failed` by position."""

    @abstractmethod
    def _requeue_ambiguous(self, c: Connection, rows: Sequence[Any], now: Millis) -> None:
        """Nobody will say what became of these rows."""

    async def receipts(self, lane: LaneId) -> Sequence[OpenReceipt]:
        table = self._table
        query = (
            select(table.c.receipt, func.max(self._sent_at), func.count())
            .where(
                table.c.lane == lane, in_state(State.CLAIMED, table), table.c.receipt.is_not(None)
            )
            .group_by(table.c.receipt)
        )
        return await self._database.read(
            lambda c: [OpenReceipt(id, Millis(since or 0), n) for id, since, n in c.execute(query)]
        )

    async def close_receipt(
        self,
        lane: LaneId,
        receipt: str,
        *,
        now: Millis,
        failed: Mapping[int, tuple[Problem, str]],
    ) -> int:
        return await self._in_batches(
            lane, receipt, lambda c, rows: self._close(c, rows, now, failed)
        )

    async def requeue_receipt(self, lane: LaneId, receipt: str, *, now: Millis) -> int:
        return await self._in_batches(
            lane, receipt, lambda c, rows: self._requeue_ambiguous(c, rows, now)
        )

    async def _in_batches(
        self, lane: LaneId, receipt: str, work: Callable[[Connection, Sequence[Any]], None]
    ) -> int:
        """A thousand at a time, so that a job of ten thousand does not hold up the writer."""
        total = 0
        while True:

            def part(c: Connection) -> int:
                query = self._rows_of_receipt(lane, receipt).limit(1_000).with_for_update()
                rows = list(c.execute(query))
                if rows:
                    work(c, rows)
                return len(rows)

            count = await self._database.write(part)
            total += count
            if count < 1_000:
                return total

    async def open_jobs(self) -> set[str]:
        """Receipts that hold writes in flight, of all lanes of all such queues."""

        def work(c: Connection) -> set[str]:
            found: set[str] = set()
            for table in (profiles, memberships):
                query = select(table.c.receipt).where(
                    in_state(State.CLAIMED, table), table.c.receipt.is_not(None)
                )
                found.update(c.execute(query.distinct()).scalars())
            return found

        return await self._database.read(work)
