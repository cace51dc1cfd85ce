"""Entries that an import job holds in flight until the receipt of the job is closed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, exists, func, literal, select

from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis
from connector.domain.records import State
from connector.ports import OpenReceipt
from connector.store.database import Database
from connector.store.pieces import Pieces
from connector.store.queues.queue import SqlQueue
from connector.store.tables import QueueTable, in_state, memberships, profiles


def is_joining_list(address: Column[Any]) -> ColumnElement[bool]:
    """Whether a write that adds this address to a list is in flight: an import job holds it."""
    joining = memberships.alias("joining")
    return exists(
        select(literal(1)).where(
            joining.c.address == address, in_state(State.CLAIMED, joining), joining.c.sent == 1
        )
    )


class ReceiptedQueue(SqlQueue):
    """connector.ports.Queue and Receipts over one table, whose entries import jobs may hold.

    `sent_at` is the column that says when such an entry was sent.
    """

    def __init__(self, database: Database, source: QueueTable, sent_at: Column[Any]) -> None:
        super().__init__(database, source)
        self._sent_at = sent_at
        self._closed = Pieces(database, self.most_rows)

    @abstractmethod
    def _rows_of_receipt(self, lane: LaneId, receipt: str) -> Select[Any]:
        """The query for rows of this receipt, in the order of their key."""

    @abstractmethod
    def _close(
        self,
        c: Connection,
        rows: Sequence[Any],
        now: Millis,
        failed: Mapping[int, tuple[Problem, str]],
    ) -> None:
        """The job that held these rows has ended: `failed` by position."""

    @abstractmethod
    def _requeue_ambiguous(self, c: Connection, rows: Sequence[Any], now: Millis) -> None:
        """The outcome of these rows will never be known."""

    async def open_receipts(self, lane: LaneId) -> Sequence[OpenReceipt]:
        table = self._source.table
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
        def part(c: Connection, after: int, most: int) -> tuple[int, int | None]:
            query = self._rows_of_receipt(lane, receipt).limit(most).with_for_update()
            rows = list(c.execute(query))
            if rows:
                work(c, rows)
            return len(rows), after if len(rows) == most else None

        return await self._closed.each(part, 0)

    async def open_jobs(self) -> set[str]:
        def work(c: Connection) -> set[str]:
            found: set[str] = set()
            for table in (profiles, memberships):
                # With the lane, in the order of an index.
                query = select(table.c.lane, table.c.receipt).where(
                    in_state(State.CLAIMED, table), table.c.receipt.is_not(None)
                )
                found.update(receipt for _, receipt in c.execute(query.distinct()))
            return found

        return await self._database.read(work)
