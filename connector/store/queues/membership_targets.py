"""The members of a target as a set, in SQL."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, func, select

from connector.domain.approvals import FIRST_SYNC
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.records import State
from connector.ports import MembershipCounts
from connector.store.admin import approvals
from connector.store.database import Database
from connector.store.people import groups as group_rows
from connector.store.people.groups import GroupRow
from connector.store.queues import membership_changes as changes
from connector.store.queues.membership_rows import held_for, in_ranges, requeue
from connector.store.queues.membership_state import IN, OUT
from connector.store.tables import memberships

_M = memberships.c


class SqlTargetMembers:
    """connector.ports.TargetMembers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enable_writes(self, target: int, *, now: Millis) -> int:
        def work(c: Connection) -> None:
            group = group_rows.change(c, target, writes_enabled=1)
            approvals.close(c, group.connection, FIRST_SYNC, group.name)

        await self._database.write(work)
        of_target = _M.target == target
        return await requeue(self._database, now, of_target, held_for(Problem.FIRST_SYNC))

    async def find_manual_removals(self, target: int, *, re_add: bool, now: Millis) -> int:
        def work(c: Connection, row: GroupRow, where: ColumnElement[bool]) -> int:
            return changes.save_manual_removals(c, row, where, re_add, now)

        return await in_ranges(self._database, target, work)

    async def remove_foreign(self, target: int, *, now: Millis) -> int:
        def work(c: Connection, row: GroupRow, where: ColumnElement[bool]) -> int:
            return changes.remove_foreign(c, row, where, now)

        return await in_ranges(self._database, target, work)

    async def resend_unconfirmed(self, target: int, *, now: Millis) -> int:
        def work(c: Connection, row: GroupRow, where: ColumnElement[bool]) -> int:
            return changes.resend_unconfirmed(c, row, where, now)

        return await in_ranges(self._database, target, work)

    async def counts(self, target: int) -> MembershipCounts:
        wanted, actual = _M.wanted == IN, _M.confirmed == IN
        conditions = {
            "wanted": wanted,
            "actual": actual,
            "matching": and_(wanted, actual),
            "pending": _M.state.in_((State.READY, State.CLAIMED)),
            "unconfirmed": _M.unconfirmed == 1,
            "removed": held_for(Problem.REMOVED_BY_HAND),
            "foreign": and_(actual, _M.wanted == OUT, _M.added_by_us == 0),
        }
        columns = [func.count().filter(where).label(name) for name, where in conditions.items()]
        query = select(*columns).where(_M.target == target)
        return await self._database.read(
            lambda c: MembershipCounts(**c.execute(query).mappings().one())
        )
