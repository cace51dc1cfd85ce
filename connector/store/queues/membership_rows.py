"""Rows of memberships read, locked and written in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, select

from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis
from connector.domain.records import State
from connector.store.database import Database
from connector.store.people import groups as group_rows
from connector.store.people.groups import GroupRow
from connector.store.pieces import Pieces
from connector.store.prepared import prepared_update
from connector.store.queues.membership_state import MembershipRow, with_next_change
from connector.store.tables import groups, in_state, memberships

_M = memberships.c
_OF_TARGET = ("remove_foreign", "writes_enabled")
ROWS: Select[Any] = select(
    *((groups.c if name in _OF_TARGET else _M)[name] for name in MembershipRow._fields)
).join(groups, groups.c.id == _M.target)
"""Columns of a MembershipRow."""
MOST_REQUEUED = 500
"""Rows of one transaction of `requeue`."""


def lock(c: Connection, *conditions: ColumnElement[bool]) -> list[MembershipRow]:
    """The rows that meet the conditions, locked, in the order of their ids."""
    # "+ 0" keeps SQLite from walking all rows in their order.
    query = ROWS.where(*conditions).order_by(_M.id + 0).with_for_update(of=memberships)
    return [MembershipRow._make(row) for row in c.execute(query)]


def save(c: Connection, changes: Iterable[dict[str, Any]]) -> None:
    """Write changed columns by `id`. Rows with the same columns are written together."""
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for change in changes:
        by_columns.setdefault(tuple(sorted(change.keys() - {"id"})), []).append(change)
    for columns, rows in by_columns.items():
        statement = prepared_update(memberships, "id", columns)
        statement.run_all(c, [{"row": row["id"], **row} for row in rows])


async def requeue(pieces: Pieces, now: Millis, *conditions: ColumnElement[bool]) -> int:
    """Rows at rest that meet the conditions get their next change; returns how many rows there
    were. The conditions name one state of one lane, and the problem where the state has one: an
    index then has the rows in the order of their ids."""

    def part(c: Connection, after: int, rows: int) -> tuple[int, int | None]:
        query = select(_M.id).where(*conditions, _M.id > after).order_by(_M.id).limit(rows)
        ids = list(c.execute(query).scalars())
        at_rest = lock(c, _M.id.in_(ids), *conditions)
        save(c, [with_next_change(row, now, priority=row.priority) for row in at_rest])
        return len(ids), ids[-1] if len(ids) == rows else None

    return await pieces.each(part, 0)


async def in_ranges(
    pieces: Pieces,
    target: int,
    work: Callable[[Connection, GroupRow, ColumnElement[bool]], int],
) -> int:
    """Run `work` on all members of a target, a range of addresses at a time, each in a transaction
    with the target's row locked; returns the sum of its results."""

    def part(c: Connection, after: str, rows: int) -> tuple[int, str | None]:
        row = group_rows.lock(c, target)
        members = select(_M.email).where(_M.target == target)
        end = group_rows.range_end(c, members, _M.email, after, rows)
        where = and_(_M.target == target, _M.email > after)
        return work(c, row, where if end is None else and_(where, _M.email <= end)), end

    return await pieces.each(part, "")


async def requeue_stuck(
    database: Database,
    pieces: Pieces,
    now: Millis,
    lane: LaneId,
    state: State,
    *conditions: ColumnElement[bool],
) -> int:
    """`requeue` of what is held or dead for any problem."""
    stuck = _M.lane == lane, in_state(state, memberships), *conditions
    problems = await database.read(
        lambda c: list(c.execute(select(_M.problem).where(*stuck).distinct()).scalars())
    )
    total = 0
    for problem in problems:
        total += await requeue(pieces, now, *stuck, _M.problem == problem)
    return total


async def requeue_held(
    pieces: Pieces, now: Millis, lane: LaneId, target: int, problem: Problem
) -> int:
    """`requeue` of what a target holds for this problem."""
    of_target = _M.lane == lane, _M.target == target
    return await requeue(pieces, now, *of_target, held_for(problem))


def held_for(problem: Problem) -> ColumnElement[bool]:
    return and_(in_state(State.HELD, memberships), _M.problem == problem.value)
