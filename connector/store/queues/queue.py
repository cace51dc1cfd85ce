"""What all queues have in common: the same columns, the same way from ready to claimed and back.

Each statement is one intent.
"""

from __future__ import annotations

import functools
import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    ScalarSelect,
    Select,
    false,
    func,
    select,
    true,
    update,
)

from connector.domain.errors import MAY_BE_APPLIED, THROTTLED, Problem, StoreError
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis, QuotaUsage
from connector.domain.outcomes import Outcome, Request
from connector.domain.records import Claim, Entry, State
from connector.ports import Fence, ReadyCounts, RetryPolicy, Settled
from connector.store.admin import facts, leases
from connector.store.admin import requests as request_rows
from connector.store.database import Database
from connector.store.pieces import Pieces
from connector.store.prepared import Prepared, param
from connector.store.tables import (
    QueueTable,
    in_state,
    is_retrying,
)

Condition = ColumnElement[bool]
_FEW = 100
"""Rows of each kind that are counted at once."""
_MOST_LOOKS = 50
"""How often a claim looks on where it finds only what may not be sent now."""
_MOST_EXTENDED = 1_000
"""Rows of one transaction of `extend` and of `retry_now`."""
_AWAY = frozenset(p for p in Problem if p.waits_for_remote) - THROTTLED


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
    row = _ready_query(source, batch_only).first(c, lane=lane, now=now, most=limit)
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
def _ready_query(source: QueueTable, batch_only: tuple[Condition, ...]) -> Prepared:
    """A count and the next due time per kind in one statement."""
    table = source.table

    def of_kind(mode: DeliveryMode, priority: int) -> list[Condition]:
        return [
            table.c.lane == param("lane"),
            in_state(State.READY, table),
            *in_mode(source, mode),
            table.c.priority == priority,
        ]

    def count(mode: DeliveryMode, priority: int) -> ScalarSelect[int]:
        more = batch_only if mode is DeliveryMode.BATCH else ()
        due = table.c.due <= param("now")
        ready = select(source.key).where(*of_kind(mode, priority), due, *more)
        found = ready.limit(param("most", type_=Integer)).subquery()
        return select(func.count()).select_from(found).scalar_subquery()

    def later(mode: DeliveryMode, priority: int) -> ScalarSelect[int]:
        due = select(func.min(table.c.due))
        return due.where(*of_kind(mode, priority), table.c.due > param("now")).scalar_subquery()

    kinds = _kinds(source)
    counts = [count(*kind).label(f"count{n}") for n, kind in enumerate(kinds)]
    times = [later(*kind).label(f"later{n}") for n, kind in enumerate(kinds)]
    return Prepared(select(*counts, *times))


def modes_of(source: QueueTable) -> tuple[DeliveryMode, ...]:
    """The modes that rows of the table can have."""
    return tuple(DeliveryMode) if source.mode is not None else (DeliveryMode.BATCH,)


def in_mode(source: QueueTable, mode: DeliveryMode) -> list[Condition]:
    """Rows that are claimed in this mode."""
    return [] if source.mode is None else [source.mode == mode]


class ClaimStatement:
    """Claims the oldest ready rows of a table, those of one delivery mode at a time. `values` are
    further columns that a claim sets, `conditions` those of a row that may be claimed. Both may
    have bind parameters: `now`, `version` (of the mapping), and what is given to `run`."""

    def __init__(
        self,
        source: QueueTable,
        *,
        returning: tuple[Any, ...],
        values: Mapping[str, Any] | None = None,
        conditions: tuple[Condition, ...] = (),
    ) -> None:
        self._source = source
        self._returning = returning
        self._values = dict(values or {})
        self._conditions = conditions
        self._position = next(n for n, column in enumerate(returning) if column is source.key)
        self._prepared = Prepared(self._build)

    def run(self, c: Connection, spec: ClaimSpec, **values: Any) -> list[Any]:
        """Live rows before those of a backfill, each in the order of their key."""
        if self._source.mode is None and spec.mode is DeliveryMode.SINGLE:
            return []
        rows: list[Any] = []
        for priority in (0, 1) if spec.backfill is None else (int(spec.backfill),):
            if len(rows) < spec.limit:
                found = self._prepared.rows(
                    c,
                    lane=spec.lane,
                    token=spec.token,
                    now=spec.now,
                    most=spec.limit - len(rows),
                    mode=spec.mode,
                    version=spec.mapping,
                    priority=priority,
                    **values,
                )
                rows += sorted(found, key=itemgetter(self._position))
        return rows

    def _build(self, dialect: str) -> Executable:
        table, key = self._source.table, self._source.key
        mode = [] if self._source.mode is None else [self._source.mode == param("mode")]
        oldest = (
            select(key)
            .where(
                table.c.lane == param("lane"),
                in_state(State.READY, table),
                *mode,
                table.c.priority == param("priority"),
                table.c.due <= param("now"),
                *self._conditions,
            )
            .order_by(table.c.due, key)
            .limit(param("most", type_=Integer))
            .with_for_update(skip_locked=True)
        )
        return (
            update(table)
            .where(key.in_(_evaluated_once(dialect, oldest)))
            .values(
                state=State.CLAIMED,
                claim=param("token"),
                attempts=table.c.attempts + 1,
                **self._values,
            )
            .returning(*self._returning)
        )


def _evaluated_once(dialect: str, keys: Select[Any]) -> Select[Any]:
    """PostgreSQL may repeat a subquery for each row of the table. It then skips the rows that this
    statement has changed already, and claims more than the limit."""
    if dialect != "postgresql":
        return keys
    found = keys.cte("oldest").prefix_with("MATERIALIZED", dialect="postgresql")
    return select(*found.c)


def retried(
    c: Connection, source: QueueTable, lane: LaneId, after: int, most: int, *more: Condition
) -> list[int]:
    """The keys after this one of rows that are retrying, in their order; at most a part of them.
    `more` are further conditions."""
    table, key = source.table, source.key
    query = select(key).where(table.c.lane == lane, is_retrying(table), key > after, *more)
    return list(c.execute(query.order_by(key).limit(most)).scalars())


def extend(c: Connection, source: QueueTable, keys: Sequence[int], pause: int) -> int:
    """Move `failing_since` of these rows by `pause` ms; how many are still retrying."""
    table = source.table
    part = update(table).where(source.key.in_(keys), is_retrying(table))
    return c.execute(part.values(failing_since=table.c.failing_since + pause)).rowcount


def _looked_at(most: int, found: Sequence[Entry] | None) -> int:
    return most if found is None else len(found)


def earliest(due: Iterable[Millis | None]) -> Millis | None:
    """The first of these times; None without one."""
    return min((at for at in due if at is not None), default=None)


RESET = {"claim": None, "problem": None, "detail": "", "settled_at": None}
"""The columns of a row that starts over."""


def settled(state: State, now: Millis | BindParameter[Millis]) -> dict[str, Any]:
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
        self._claimed = Pieces(database, self.most_rows)
        self._settled = Pieces(database, self.most_rows)
        self._extended = Pieces(database, _MOST_EXTENDED)

    most_rows = 250
    """Rows that one transaction claims or settles: a claim of ten thousand takes many."""

    settles_patiently = False
    """Whether an outcome may wait a moment before it is stored: nothing waits for it, and a process
    that dies meanwhile repeats what does no harm when it is repeated."""

    @abstractmethod
    def _claim_entries(
        self, c: Connection, spec: ClaimSpec, before: Sequence[Entry]
    ) -> list[Entry] | None:
        """Claim rows under `spec.token` and make entries of them. `before` are those that the claim
        has already. None: what was found may not be sent now, and there may be more behind it."""

    @abstractmethod
    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> Settled:
        """Write outcomes to the rows that this claim still holds."""

    @abstractmethod
    def _recover(self, c: Connection, now: Millis, of: Condition) -> int:
        """Release the rows `of` dead holders that these claimed; how many."""

    @abstractmethod
    def _give_back(self, c: Connection, claim: Claim, now: Millis) -> int:
        """Release the rows of a claim that was not delivered; how many."""

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        return await self._database.read(
            lambda c: ready(c, self._source, lane, now, limit), brief=limit <= _FEW
        )

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
        looks = 0
        while len(entries) < limit and looks < _MOST_LOOKS:
            most = min(self._claimed.rows, limit - len(entries))
            spec = ClaimSpec(lane.id, token, now, most, mode, mapping, backfill)

            def part(
                c: Connection,
                spec: ClaimSpec = spec,
                before: Sequence[Entry] = tuple(entries),
                is_first: bool = not (entries or looks),
            ) -> list[Entry] | None:
                leases.require_lease(c, fence, now)
                if is_first:
                    facts.add_quota_usage(c, usage)
                return self._claim_entries(c, spec, before)

            try:
                found = await self._claimed.write(part, rows=partial(_looked_at, most))
            except StoreError as error:
                if error.problem is Problem.STORE_HELD and entries:
                    break  # the caller looks at its lease again before it sends them
                raise
            if found is None:
                looks += 1
                continue
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
    ) -> Settled:
        total, left = Settled(0), requests
        for these, _ in self._settled.parts(outcomes):

            def part(
                c: Connection, these: Sequence[Outcome] = these, left: Sequence[Request] = left
            ) -> Settled:
                request_rows.save(c, claim.lane.id, left)
                return self._settle(c, claim, these, now, policy)

            found = await self._settled.write(part, rows=len(these), patient=self.settles_patiently)
            total = Settled(
                total.changed + found.changed, earliest([total.next_due, found.next_due])
            )
            left = ()
        return total

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

    repeats_what_was_sent = False
    """Whether what is sent after a request that may still be applied is the same again, so that it
    may cross that request."""

    def _keeps_its_time(self, now: Millis) -> Condition:
        """Rows that must not be tried again before they are due."""
        return false()

    async def retry_now(self, lane: LaneId, *, now: Millis) -> int:
        table, key = self._source.table, self._source.key
        away = _AWAY if self.repeats_what_was_sent else _AWAY - MAY_BE_APPLIED
        causes = sorted(problem.value for problem in away)
        waits = table.c.due > now, table.c.problem.in_(causes), ~self._keeps_its_time(now)

        def look(c: Connection, after: int, rows: int) -> list[int]:
            return retried(c, self._source, lane, after, rows, *waits)

        def part(c: Connection, keys: Sequence[int]) -> int:
            these = update(table).where(key.in_(keys), is_retrying(table), *waits)
            return c.execute(these.values(due=now)).rowcount

        return await self._extended.each_found(look, part)

    async def extend_horizon(self, lane: LaneId, pause: int) -> int:
        def look(c: Connection, after: int, rows: int) -> list[int]:
            return retried(c, self._source, lane, after, rows)

        def part(c: Connection, keys: Sequence[int]) -> int:
            return extend(c, self._source, keys, pause)

        return await self._extended.each_found(look, part)
