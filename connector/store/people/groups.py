"""Groups as rows: links, remote ids and the progress of scans.

Work on a whole group is done a range of addresses at a time (`range_end`), one transaction each, so
that it does not block the writer for long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Select, and_, insert, or_, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.memberships import Group, GroupType, Link
from connector.ports import MembersPage
from connector.store.prepared import Prepared, param
from connector.store.tables import groups

MOST_IN_RANGE = 1_000
"""Rows in one transaction of work on a whole group."""


class GroupRow(NamedTuple):
    """A row of `groups`."""

    id: int
    connection: str
    kind: GroupType
    name: str
    target: int
    active: int
    remote_id: str | None
    title: str
    lane: LaneId
    account: str
    remove_foreign: int
    writes_enabled: int
    scan: int
    cursor: str | None
    scan_started_at: Millis | None
    saved_at: Millis | None
    completed_scan: int
    completed_at: Millis | None
    scan_ms: int
    applied_scan: int
    members: int
    without_address: int
    problem: str | None
    detail: str

    @property
    def removes_foreign(self) -> bool:
        """Whether members that others added are removed now."""
        return bool(self.remove_foreign and self.writes_enabled)

    @property
    def group(self) -> Group:
        return Group(
            id=self.id,
            connection=self.connection,
            kind=self.kind,
            name=self.name,
            target=self.target,
            remote_id=self.remote_id,
            title=self.title,
            writes_enabled=bool(self.writes_enabled),
            scan=self.scan,
            cursor=self.cursor,
            scan_started_at=self.scan_started_at,
            saved_at=self.saved_at,
            completed_scan=self.completed_scan,
            completed_at=self.completed_at,
            scan_ms=self.scan_ms,
            applied_scan=self.applied_scan,
            members=self.members,
            without_address=self.without_address,
            problem=Problem.from_code(self.problem) if self.problem else None,
            detail=self.detail,
        )


_SELECT: Select[Any] = select(*(groups.c[name] for name in GroupRow._fields))
_ONE = _SELECT.where(groups.c.id == param("id"))
_GET, _LOCK = Prepared(_ONE), Prepared(_ONE.with_for_update())
_USED = _SELECT.where(groups.c.active == 1).order_by(groups.c.target, groups.c.id)
_OF_CONNECTION = _USED.where(groups.c.connection == param("connection"))
_ALL, _OF_ONE = Prepared(_USED), Prepared(_OF_CONNECTION)
_AUDIENCES = Prepared(
    _OF_CONNECTION.where(
        groups.c.kind == "audience",
        or_(*(c == param("audience") for c in (groups.c.name, groups.c.remote_id, groups.c.title))),
    )
)


def in_use(c: Connection, connection: str | None = None) -> list[GroupRow]:
    """The groups of a connection, or of all, that are in use; targets before sources."""
    rows = _ALL.rows(c) if connection is None else _OF_ONE.rows(c, connection=connection)
    return [GroupRow._make(row) for row in rows]


def audiences(c: Connection, connection: str, audience: str) -> list[GroupRow]:
    """Those in use with this id or name."""
    rows = _AUDIENCES.rows(c, connection=connection, audience=audience)
    return [GroupRow._make(row) for row in rows]


def get(c: Connection, id: int) -> GroupRow:
    return GroupRow._make(_GET.first(c, id=id))


def lock(c: Connection, id: int) -> GroupRow:
    """A group's row, locked against other writers until the transaction ends."""
    return GroupRow._make(_LOCK.first(c, id=id))


def change(c: Connection, id: int, **values: Any) -> Group:
    c.execute(update(groups).where(groups.c.id == id).values(values))
    return get(c, id).group


# ── links ────────────────────────────────────────────────────────────────────────────────────────


def link(c: Connection, lane: Lane, links: Sequence[Link], account: str) -> None:
    """Replace the lane's links."""
    mine = and_(groups.c.connection == lane.connection, groups.c.kind.in_(_kinds(lane)))
    c.execute(update(groups).where(mine).values(active=0))
    for id, values in _columns(c, lane, links, account).items():
        c.execute(update(groups).where(groups.c.id == id).values({**values, "active": 1}))


def ensure(c: Connection, lane: Lane, links: Sequence[Link], account: str) -> list[GroupRow]:
    """The groups of the links, targets before sources. Missing ones are created, and not in use."""
    rows = [get(c, id) for id in _columns(c, lane, links, account)]
    return sorted(rows, key=attrgetter("target", "id"))


def _columns(
    c: Connection, lane: Lane, links: Sequence[Link], account: str
) -> dict[int, dict[str, Any]]:
    """Id of each of the links' groups → the columns that follow from the configuration. A target
    of tags receives writes at once; a list only after its first sync was allowed."""
    source, target = _kinds(lane)
    common = {"connection": lane.connection, "lane": lane.id, "account": account}
    enabled = {"writes_enabled": 1} if target == "tag" else {}
    found: dict[int, dict[str, Any]] = {}
    for each in links:
        of_target = {"kind": target, "name": each.target, "target": 0}
        columns = {**common, **enabled, **of_target, "remove_foreign": int(each.remove_foreign)}
        target_id = _ensure(c, columns)
        of_source = {"kind": source, "name": each.source, "target": target_id}
        found[target_id] = columns
        found[_ensure(c, common | of_source)] = common | of_source
    return found


def _kinds(lane: Lane) -> tuple[GroupType, GroupType]:
    return ("audience", "list") if lane.destination == "klaviyo" else ("segment", "tag")


def _ensure(c: Connection, values: Mapping[str, Any]) -> int:
    key = [groups.c[name] == values[name] for name in ("connection", "kind", "name", "target")]
    known: int | None = c.execute(select(groups.c.id).where(*key)).scalar()
    if known is not None:
        return known
    new = insert(groups).values({**values, "active": 0}).returning(groups.c.id)
    return int(c.execute(new).scalar_one())


# ── scans ────────────────────────────────────────────────────────────────────────────────────────


def begin_scan(c: Connection, id: int, now: Millis) -> Group:
    number = lock(c, id).scan + 1
    return change(
        c, id, scan=number, cursor=None, scan_started_at=now, saved_at=now, without_address=0
    )


def save_page(c: Connection, row: GroupRow, page: MembersPage, now: Millis, **values: Any) -> Group:
    """Save where the next page begins. The last page completes the scan. Raises RuntimeError where
    no scan runs any more: reset_account ended it while the page was read."""
    if row.scan_started_at is None:
        raise RuntimeError(f"no scan of the {row.kind} {row.name} is running")
    if page.more:
        return change(c, row.id, cursor=page.cursor, saved_at=now, **values)
    return change(
        c,
        row.id,
        cursor=None,
        scan_started_at=None,
        saved_at=now,
        completed_scan=row.scan,
        completed_at=now,
        scan_ms=now - row.scan_started_at,
        **values,
    )


def range_end(
    c: Connection, of: Select[Any], column: Column[Any], after: str, rows: int
) -> str | None:
    """The last address of the range of `rows` that begins after `after`; None: the rest is one
    range."""
    query = of.where(column > after).order_by(column).offset(rows).limit(1)
    end: str | None = c.execute(query).scalar()
    return end
