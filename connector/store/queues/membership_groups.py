"""Groups and their links in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, Millis
from connector.domain.memberships import Group, Link
from connector.ports import Fence
from connector.store.admin import leases
from connector.store.database import Database, on_request
from connector.store.people import groups as group_rows
from connector.store.pieces import Pieces
from connector.store.queues.membership_rows import MOST_REQUEUED, requeue_held
from connector.store.tables import groups, memberships, source_members


class SqlMemberGroups:
    """connector.ports.MemberGroups."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._requeued = Pieces(database, MOST_REQUEUED)
        self._deleted = Pieces(database, group_rows.MOST_IN_RANGE)

    async def ensure(self, lane: Lane, links: Sequence[Link], *, account: str) -> Sequence[Group]:
        return await self._database.write(
            lambda c: [row.group for row in group_rows.ensure(c, lane, links, account)]
        )

    async def set_links(
        self,
        lane: Lane,
        links: Sequence[Link],
        *,
        account: str,
        fence: Fence | None = None,
        now: Millis = Millis(0),
    ) -> None:
        def work(c: Connection) -> None:
            if fence is not None:
                leases.require_lease(c, fence, now)
            group_rows.link(c, lane, links, account)

        await self._database.write(work)

    async def all(self, connection: str | None = None) -> Sequence[Group]:
        return await self._database.read(
            lambda c: [row.group for row in group_rows.in_use(c, connection)]
        )

    async def get(self, group: int) -> Group:
        return await self._database.read(lambda c: group_rows.get(c, group).group)

    async def set_remote_id(self, group: int, remote_id: str, title: str, *, now: Millis) -> None:
        await self._change(group, remote_id=remote_id, title=title)
        row = await self._database.read(lambda c: group_rows.get(c, group))
        await requeue_held(self._requeued, now, row.lane, group, Problem.KLAVIYO_TARGET)

    async def clear_remote_id(self, group: int) -> None:
        await self._change(group, remote_id=None)

    async def set_problem(self, group: int, problem: Problem | None, detail: str = "") -> None:
        await self._change(group, problem=problem.value if problem else None, detail=detail)

    async def _change(self, group: int, **values: str | None) -> None:
        await self._database.write(lambda c: group_rows.change(c, group, **values))

    async def reset_account(self, connection: str, *, now: Millis) -> None:
        # Groups first: where this is cut off and the earlier account comes back, no one who was
        # deleted joins again. And last: a new scan would find members that are deleted after it.
        await self._database.write(on_request(partial(_forget_groups, connection)))
        ids = await self._database.read(on_request(partial(_ids_at_klaviyo, connection)))
        for id in ids:
            await self._deleted.each(on_request(partial(_delete_members, id)), 0)
            await self._deleted.each(on_request(partial(_delete_sources, id)), "")
        await self._database.write(on_request(lambda c: _reset_account(c, connection)))


def _at_klaviyo(connection: str) -> Select[Any]:
    mine = groups.c.connection == connection
    return select(groups.c.id).where(mine, groups.c.kind.in_(("list", "segment")))


def _ids_at_klaviyo(connection: str, c: Connection) -> list[int]:
    return list(c.execute(_at_klaviyo(connection)).scalars())


def _delete_members(target: int, c: Connection, after: int, rows: int) -> tuple[int, int | None]:
    these = select(memberships.c.id).where(memberships.c.target == target).limit(rows)
    deleted = c.execute(delete(memberships).where(memberships.c.id.in_(these))).rowcount
    return deleted, after if deleted == rows else None


def _delete_sources(source: int, c: Connection, after: str, rows: int) -> tuple[int, str | None]:
    of_source = source_members.c.source == source
    emails = select(source_members.c.email).where(of_source)
    end = group_rows.range_end(c, emails, source_members.c.email, after, rows)
    these = of_source if end is None else and_(of_source, source_members.c.email <= end)
    return c.execute(delete(source_members).where(these)).rowcount, end


def _reset_account(c: Connection, connection: str) -> None:
    ids = _at_klaviyo(connection)
    c.execute(delete(memberships).where(memberships.c.target.in_(ids)))
    c.execute(delete(source_members).where(source_members.c.source.in_(ids)))
    _forget_groups(connection, c)


def _forget_groups(connection: str, c: Connection) -> None:
    ids = _at_klaviyo(connection)
    not_scanned = {"cursor": None, "scan_started_at": None, "completed_scan": 0}
    not_scanned |= {"completed_at": None}
    unknown = {"remote_id": None, "title": "", "writes_enabled": 0, "applied_scan": 0, "members": 0}
    c.execute(update(groups).where(groups.c.id.in_(ids)).values(not_scanned | unknown))
    # The wanted members of the new lists come from a new scan of the audiences.
    c.execute(
        update(groups)
        .where(groups.c.connection == connection, groups.c.kind == "audience")
        .values(not_scanned)
    )
