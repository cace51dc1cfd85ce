"""What all queues have in common: the same columns, the same way from ready to claimed and back.

Each statement is one intent.
"""

from __future__ import annotations

import functools
import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    ScalarSelect,
    Select,
    bindparam,
    func,
    select,
    true,
    update,
)

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis, QuotaUsage
from connector.domain.outcomes import Outcome, Request
from connector.domain.records import Claim, Entry, State
from connector.ports import Fence, ReadyCounts, RetryPolicy
from connector.store.admin import facts, leases
from connector.store.admin import requests as request_rows
from connector.store.database import Database
from connector.store.tables import (
    QueueTable,
    in_state,
    is_retrying,
)

Condition = ColumnElement[bool]
_EXTENDED = 1_000
"""Rows of one transaction of `extend`."""


def ready(
    c: Connection,
    source: QueueTable,
    lane: LaneId,
    now: Millis,
    limit: int,
    *,
    batch_only: tuple[Condition, ...] = (),
) -> ReadyCounts:
    """How many rows could be claimed now, counted up to `limit`, and when the next becomes due.

    `batch_only` are further conditions on rows of mode BATCH.
    """
    row = c.execute(
        _ready_query(source, batch_only), {"lane": lane, "now": now, "most": limit}
    ).one()
    kinds = _kinds(source)
    counts = dict(zip(kinds, row, strict=False))
    due = [at for at in row[len(kinds) :] if at is not None]
    return ReadyCounts(
        batch=counts[DeliveryMode.BATCH, 0],
        single=counts.get((DeliveryMode.SINGLE, 0), 0),
        next_due=Millis(min(due)) if due else None,
        backfill_batch=counts[DeliveryMode.BATCH, 1],
        backfill_single=counts.get((DeliveryMode.SINGLE, 1), 0),
    )


def _kinds(source: QueueTable) -> list[tuple[DeliveryMode, int]]:
    """(mode, priority) of the rows that the table can hold."""
    return [(mode, priority) for priority in (0, 1) for mode in modes_of(source)]


@functools.cache
def _ready_query(source: QueueTable, batch_only: tuple[Condition, ...]) -> Select[Any]:
    """A count and the next due time per kind in one statement, built once: as separate statements,
    built on each call, they took a fifth of a backfill's CPU."""
    table = source.table

    def of_kind(mode: DeliveryMode, priority: int) -> list[Condition]:
        return [
            table.c.lane == bindparam("lane"),
            in_state(State.READY, table),
            *in_mode(source, mode),
            table.c.priority == priority,
        ]

    def count(mode: DeliveryMode, priority: int) -> ScalarSelect[int]:
        more = batch_only if mode is DeliveryMode.BATCH else ()
        due = table.c.due <= bindparam("now")
        ready = select(source.key).where(*of_kind(mode, priority), due, *more)
        found = ready.limit(bindparam("most", type_=Integer)).subquery()
        return select(func.count()).select_from(found).scalar_subquery()

    def later(mode: DeliveryMode, priority: int) -> ScalarSelect[int]:
        due = select(func.min(table.c.due))
        return due.where(*of_kind(mode, priority), table.c.due > bindparam("now")).scalar_subquery()

    kinds = _kinds(source)
    counts = [count(*kind).label(f"count{n}") for n, kind in enumerate(kinds)]
    times = [later(*kind).label(f"later{n}") for n, kind in enumerate(kinds)]
    return cast("Select[Any]", select(*counts, *times))


def modes_of(source: QueueTable) -> tuple[DeliveryMode, ...]:
    """The modes that rows of the table can have."""
    return tuple(DeliveryMode) if source.mode is not None else (DeliveryMode.BATCH,)


def in_mode(source: QueueTable, mode: DeliveryMode) -> list[Condition]:
    """Rows that are claimed in this mode."""
    return [] if source.mode is None else [source.mode == mode]


def claim(
    c: Connection,
    source: QueueTable,
    spec: ClaimSpec,
    *,
    values: dict[str, Any],
    returning: tuple[Any, ...],
    conditions: tuple[Condition, ...] = (),
) -> list[Row[Any]]:
    """Claim the oldest ready rows, live before backfill; rows in the order of their key."""
    if source.mode is None and spec.mode is DeliveryMode.SINGLE:
        return []
    table, key = source.table, source.key
    position = [column is key for column in returning].index(True)
    rows: list[Row[Any]] = []
    priorities = (0, 1) if spec.backfill is None else (int(spec.backfill),)
    for priority in priorities:
        if len(rows) >= spec.limit:
            break
        oldest = (
            select(key)
            .where(
                table.c.lane == spec.lane,
                in_state(State.READY, table),
                *in_mode(source, spec.mode),
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
            .where(key.in_(_evaluated_once(c, oldest)))
            .values(state=State.CLAIMED, claim=spec.token, attempts=table.c.attempts + 1, **values)
            .returning(*returning)
        )
        rows += sorted(c.execute(statement), key=itemgetter(position))
    return rows


def _evaluated_once(c: Connection, keys: Select[Any]) -> Select[Any]:
    """PostgreSQL may repeat a subquery for each row of the table. It then skips the rows that this
    statement has changed already, and claims more than the limit."""
    if c.dialect.name != "postgresql":
        return keys
    found = keys.cte("oldest").prefix_with("MATERIALIZED", dialect="postgresql")
    return select(*found.c)


def extend(
    c: Connection, source: QueueTable, lane: LaneId, pause: int, after: int
) -> tuple[int, int | None]:
    """Move `failing_since` of a lane's rows by `pause` ms, a part of the rows at a time; how many
    were retrying, and the key to continue after."""
    table, key = source.table, source.key
    retrying = table.c.lane == lane, is_retrying(table), key > after
    found = list(c.execute(select(key).where(*retrying).order_by(key).limit(_EXTENDED)).scalars())
    if not found:
        return 0, None
    part = update(table).where(*retrying, key <= found[-1])
    changed = c.execute(part.values(failing_since=table.c.failing_since + pause)).rowcount
    return changed, found[-1] if len(found) == _EXTENDED else None


RESET = {"claim": None, "problem": None, "detail": "", "settled_at": None}
"""The columns of a row that starts over."""


def settled(state: State, now: Millis) -> dict[str, Any]:
    """The columns of a row that has reached a final state."""
    return {"state": state, "claim": None, "settled_at": now, "problem": None, "detail": ""}


def recover(c: Connection, source: QueueTable, now: Millis, of: Condition, **values: Any) -> int:
    """Rows `of` dead holders that these claimed become ready again, with `values`; how many."""
    table = source.table
    return c.execute(
        update(table)
        .where(in_state(State.CLAIMED, table), of)
        .values(
            state=State.READY,
            claim=None,
            due=now,
            problem=Problem.INTERRUPTED.value,
            failing_since=func.coalesce(table.c.failing_since, now),
            **values,
        )
    ).rowcount


def give_back(c: Connection, source: QueueTable, claim: Claim, **values: Any) -> int:
    """Rows of a claim that was not delivered are ready again, with `values`; how many. The claim
    does not count as an attempt."""
    table = source.table
    return c.execute(
        update(table)
        .where(in_state(State.CLAIMED, table), table.c.claim == claim.token)
        .values(state=State.READY, claim=None, attempts=table.c.attempts - 1, **values)
    ).rowcount


@dataclass(frozen=True, slots=True)
class ClaimSpec:
    """What to claim, and the token to claim it under."""

    lane: LaneId
    token: int
    now: Millis
    limit: int
    mode: DeliveryMode
    mapping: str
    backfill: bool | None = None


class SqlQueue(ABC):
    """connector.ports.Queue over one table; subclasses say how rows are claimed and settled."""

    def __init__(self, database: Database, source: QueueTable) -> None:
        self._database = database
        self._source = source

    rows_per_transaction = 250
    """Rows that one transaction claims or settles, so that it holds the writer for 50 ms at most:
    a claim of ten thousand takes many."""

    @abstractmethod
    def _claim_entries(
        self, c: Connection, spec: ClaimSpec, before: Sequence[Entry]
    ) -> list[Entry]:
        """Claim rows under `spec.token` and make entries of them. `before` are those that the claim
        has already."""

    @abstractmethod
    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> int:
        """Write outcomes to the rows that this claim still holds; how many rows changed."""

    @abstractmethod
    def _recover(self, c: Connection, now: Millis, of: Condition) -> int:
        """Release the rows `of` dead holders that these claimed; how many."""

    @abstractmethod
    def _give_back(self, c: Connection, claim: Claim, now: Millis) -> int:
        """Release the rows of a claim that was not delivered; how many."""

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        return await self._database.read(lambda c: ready(c, self._source, lane, now, limit))

    async def claim(
        self,
        lane: Lane,
        fence: Fence,
        *,
        now: Millis,
        limit: int,
        mode: DeliveryMode,
        mapping: str,
        usage: Sequence[QuotaUsage] = (),
        backfill: bool | None = None,
        token: int | None = None,
    ) -> Claim | None:
        token = secrets.randbits(62) if token is None else token
        entries: list[Entry] = []
        while len(entries) < limit:
            most = min(self.rows_per_transaction, limit - len(entries))
            spec = ClaimSpec(lane.id, token, now, most, mode, mapping, backfill)

            def part(
                c: Connection, spec: ClaimSpec = spec, before: Sequence[Entry] = tuple(entries)
            ) -> list[Entry]:
                leases.require_lease(c, fence, now)
                if not before:
                    facts.add_quota_usage(c, usage)
                return self._claim_entries(c, spec, before)

            try:
                found = await self._database.write(part)
            except StoreError as error:
                if error.problem is Problem.STORE_HELD and entries:
                    break  # the caller looks at its lease again before it sends them
                raise
            entries += found
            if len(found) < most:
                break
        return Claim(token, lane, entries) if entries else None

    async def settle(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        now: Millis,
        policy: RetryPolicy,
        requests: Sequence[Request] = (),
    ) -> int:
        changed = 0
        for start in range(0, max(len(outcomes), 1), self.rows_per_transaction):

            def part(c: Connection, start: int = start) -> int:
                if start == 0:
                    request_rows.save(c, claim.lane.id, requests)
                these = outcomes[start : start + self.rows_per_transaction]
                return self._settle(c, claim, these, now, policy)

            changed += await self._database.write(part)
        return changed

    async def recover(
        self,
        fence: Fence,
        *,
        now: Millis,
        claim: Claim | None = None,
        lanes: Collection[LaneId] | None = None,
    ) -> int:
        of = true() if lanes is None else self._source.table.c.lane.in_(list(lanes))

        def work(c: Connection) -> int:
            # Every claim shares the lease's row, so that one whose connection was lost while it
            # committed has ended once the row is ours alone.
            leases.require_lease(c, fence, now, lock="exclusive")
            return self._give_back(c, claim, now) if claim else self._recover(c, now, of)

        return await self._database.write(work)

    async def extend_horizon(self, lane: LaneId, pause: int) -> int:
        total, after = 0, 0
        while True:

            def part(c: Connection, after: int = after) -> tuple[int, int | None]:
                return extend(c, self._source, lane, pause, after)

            changed, more = await self._database.write(part)
            total += changed
            if more is None:
                return total
            after = more
