"""Scans of groups in SQL, and the joins that they find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, Connection, func, select

from connector.domain.lanes import Millis
from connector.domain.memberships import Group
from connector.ports import Fence, Member, MembersPage, PendingRemovals
from connector.store.admin import leases
from connector.store.database import Database
from connector.store.people import groups as group_rows
from connector.store.people import source_members
from connector.store.people.groups import GroupRow
from connector.store.pieces import Pieces
from connector.store.queues import membership_changes as changes
from connector.store.queues.membership_rows import in_ranges
from connector.store.queues.membership_state import IN
from connector.store.tables import memberships

_M = memberships.c


class SqlGroupScans:
    """connector.ports.GroupScans."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._applied = Pieces(database, group_rows.MOST_IN_RANGE)
        self._unlisted = Pieces(database, group_rows.MOST_IN_RANGE)

    async def begin(self, group: int, fence: Fence, *, now: Millis) -> Group:
        def work(c: Connection) -> Group:
            leases.require_lease(c, fence, now)
            return group_rows.begin_scan(c, group, now)

        return await self._database.write(work)

    async def save_source_page(
        self,
        group: int,
        page: MembersPage,
        fence: Fence,
        *,
        requested_at: Millis,
        now: Millis,
        track_joins: bool = False,
        without_address: int = 0,
    ) -> Group:
        def work(c: Connection) -> Group:
            leases.require_lease(c, fence, now)
            row = group_rows.lock(c, group)
            present = source_members.stage(
                c, row, page.members, requested_at=requested_at, track_joins=track_joins
            )
            changes.add_wanted(c, row.target, present, now)
            counted = {"without_address": row.without_address + without_address}
            return group_rows.save_page(c, row, page, now, **counted)

        saved = await self._database.write(work)
        return saved if page.more else await self._count(group, source_members.count_scanned)

    async def save_target_page(
        self, group: int, page: MembersPage, fence: Fence, *, requested_at: Millis, now: Millis
    ) -> Group:
        def work(c: Connection) -> Group:
            leases.require_lease(c, fence, now)
            row = group_rows.lock(c, group)
            changes.save_listed(c, row, page.members, requested_at, now)
            return group_rows.save_page(c, row, page, now)

        saved = await self._database.write(work)
        return saved if page.more else await self._count(group, changes.count_listed)

    async def _count(self, group: int, count: Callable[[Connection, GroupRow], int]) -> Group:
        """Save how many members a complete scan found. They are counted beside the writer."""
        members = await self._database.read(lambda c: count(c, group_rows.get(c, group)))
        return await self._database.write(lambda c: group_rows.change(c, group, members=members))

    async def pending_removals(self, source: int) -> PendingRemovals:
        def work(c: Connection) -> PendingRemovals:
            row = group_rows.get(c, source)
            target = group_rows.get(c, row.target)
            wanted = (_M.target == target.id, _M.wanted == IN)
            stays = source_members.is_member(target.id, _M.email, if_applied=source)
            removed = (*wanted, changes.is_removable(target), ~stays)
            count, total = (
                c.execute(select(func.count()).where(*where)).scalar_one()
                for where in (removed, wanted)
            )
            return PendingRemovals(count if row.active else 0, total)

        return await self._database.read(work)

    async def apply(self, source: int, *, now: Millis, scan: int | None = None) -> int:
        def mark_applied(c: Connection) -> int | None:
            row = group_rows.lock(c, source)
            if not row.active:
                # Another process has replaced the links: no member of it counts as one.
                return None
            if scan not in (None, row.completed_scan):
                # Of another process, by which more people may be removed than were allowed.
                return None
            group_rows.change(c, source, applied_scan=row.completed_scan)
            return row.target

        def remove(c: Connection, target: GroupRow, where: ColumnElement[bool]) -> int:
            return changes.remove_wanted(c, target, where, now)

        target = await self._database.write(mark_applied)
        if target is None:
            return 0
        removed = await in_ranges(self._applied, target, remove)
        await self._delete_unlisted(source)
        return removed

    async def _delete_unlisted(self, source: int) -> None:
        def part(c: Connection, after: str, rows: int) -> tuple[int, str | None]:
            return 0, source_members.delete_unlisted(c, group_rows.lock(c, source), after, rows)

        await self._unlisted.each(part, "")


class SqlSegmentJoins:
    """connector.ports.SegmentJoins."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def unhandled(self, source: int, *, limit: int) -> Sequence[Member]:
        return await self._database.read(lambda c: source_members.unhandled_joins(c, source, limit))

    async def mark_handled(self, source: int, joined: Sequence[Member]) -> None:
        await self._database.write(lambda c: source_members.mark_joins_handled(c, source, joined))
