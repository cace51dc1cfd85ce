"""The members of a target as a set, in SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields

from sqlalchemy import ColumnElement, Connection

from connector.domain.approvals import FIRST_SYNC
from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis
from connector.ports import MembershipCounts
from connector.store import counters
from connector.store.admin import approvals
from connector.store.database import Database
from connector.store.people import groups as group_rows
from connector.store.people.groups import GroupRow
from connector.store.pieces import Pieces
from connector.store.queues import membership_changes as changes
from connector.store.queues.membership_rows import MOST_REQUEUED, in_ranges, requeue_held
from connector.store.tables import memberships

_M = memberships.c


class SqlTargetMembers:
    """connector.ports.TargetMembers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._requeued = Pieces(database, MOST_REQUEUED)
        self._manual = Pieces(database, group_rows.MOST_IN_RANGE)
        self._foreign = Pieces(database, group_rows.MOST_IN_RANGE)
        self._resent = Pieces(database, group_rows.MOST_IN_RANGE)

    async def enable_writes(self, target: int, *, now: Millis) -> int:
        def work(c: Connection) -> LaneId:
            group = group_rows.change(c, target, writes_enabled=1)
            approvals.close(c, group.connection, FIRST_SYNC, group.name)
            return group_rows.get(c, target).lane

        lane = await self._database.write(work)
        return await requeue_held(self._requeued, now, lane, target, Problem.FIRST_SYNC)

    async def find_manual_removals(self, target: int, *, re_add: bool, now: Millis) -> int:
        def work(c: Connection, row: GroupRow, where: ColumnElement[bool]) -> int:
            return changes.save_manual_removals(c, row, where, re_add, now)

        return await in_ranges(self._manual, target, work)

    async def remove_foreign(self, target: int, *, now: Millis, scan: int | None = None) -> int:
        def work(c: Connection, row: GroupRow, where: ColumnElement[bool]) -> int:
            if scan not in (None, row.scan):
                return 0
            return changes.remove_foreign(c, row, where, now)

        return await in_ranges(self._foreign, target, work)

    async def resend_unconfirmed(self, target: int, *, now: Millis) -> int:
        def work(c: Connection, row: GroupRow, where: ColumnElement[bool]) -> int:
            return changes.resend_unconfirmed(c, row, where, now)

        return await in_ranges(self._resent, target, work)

    async def counts(self, target: int) -> MembershipCounts:
        return await self._database.read(lambda c: _counts(counters.load_members(c, target)))


def _counts(members: Mapping[tuple[str, ...], int]) -> MembershipCounts:
    """`members`: see connector.store.counters.load_members."""
    found = Counter[str]()
    for (wanted, confirmed, added_by_us, unconfirmed, also), rows in members.items():
        here, there = wanted == "1", confirmed == "1"
        kinds = {
            "wanted": here,
            "actual": there,
            "matching": here and there,
            "pending": also == "waiting",
            "unconfirmed": unconfirmed == "1",
            "removed": also == "removed",
            "foreign": there and not here and added_by_us == "0",
        }
        found.update({kind: rows for kind, applies in kinds.items() if applies})
    return MembershipCounts(**{field.name: found[field.name] for field in fields(MembershipCounts)})
