"""Rows of memberships read, locked and written in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis
from connector.domain.records import State
from connector.store.database import Database
from connector.store.people import groups as group_rows
from connector.store.people.groups import GroupRow
from connector.store.queues.membership_state import MembershipRow, with_next_change
from connector.store.tables import groups, in_state, memberships

_M = memberships.c
_OF_TARGET = ("remove_foreign", "writes_enabled")
ROWS: Select[Any] = select(
    *((groups.c if name in _OF_TARGET else _M)[name] for name in MembershipRow._fields)
).join(groups, groups.c.id == _M.target)
"""Columns of a MembershipRow."""
_BATCH = 500
"""Rows that one transaction of `requeue` writes."""


def lock(c: Connection, *conditions: ColumnElement[bool]) -> list[MembershipRow]:
    """The rows that meet the conditions, locked, in the order of their ids."""
    # "+ 0" keeps SQLite from walking all rows in their order.
    query = ROWS.where(*conditions).order_by(_M.id + 0).with_for_update(of=memberships)
    return [MembershipRow._make(row) for row in c.execute(query)]


def save(c: Connection, changes: Iterable[dict[str, Any]]) -> None:
    """Write changed columns by `id`. Rows with the same columns are written together."""
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for change in changes:
        by_columns.setdefault(tuple(sorted(change)), []).append(change)
    for rows in by_columns.values():
        c.execute(
            update(memberships).where(_M.id == bindparam("row")),
            [{"row": row.pop("id"), **row} for row in rows],
        )


async def requeue(database: Database, now: Millis, *conditions: ColumnElement[bool]) -> int:
    """Rows at rest that meet the conditions get their next change; returns how many rows there
    were. The conditions name one state of one lane, and the problem where the state has one: an
    index then has the rows in the order of their ids."""
    total, after = 0, 0
    while True:

        def part(c: Connection, after: int = after) -> list[int]:
            query = select(_M.id).where(*conditions, _M.id > after).order_by(_M.id).limit(_BATCH)
            ids = list(c.execute(query).scalars())
            at_rest = lock(c, _M.id.in_(ids), *conditions)
            save(c, [with_next_change(row, now, priority=row.priority) for row in at_rest])
            return ids

        ids = await database.write(part)
        total += len(ids)
        if len(ids) < _BATCH:
            return total
        after = ids[-1]


async def in_ranges(
    database: Database,
    target: int,
    work: Callable[[Connection, GroupRow, ColumnElement[bool]], int],
) -> int:
    """Run `work` on all members of a target, a range of addresses at a time, each in a transaction
    with the target's row locked; returns the sum of its results."""
    total, after = 0, ""
    while True:

        def part(c: Connection, after: str = after) -> tuple[int, str | None]:
            row = group_rows.lock(c, target)
            members = select(_M.email).where(_M.target == target)
            end = group_rows.range_end(c, members, _M.email, after)
            where = and_(_M.target == target, _M.email > after)
            return work(c, row, where if end is None else and_(where, _M.email <= end)), end

        count, end = await database.write(part)
        total += count
        if end is None:
            return total
        after = end


async def requeue_stuck(
    database: Database, now: Millis, lane: LaneId, state: State, *conditions: ColumnElement[bool]
) -> int:
    """`requeue` of what is held or dead for any problem."""
    stuck = _M.lane == lane, in_state(state, memberships), *conditions
    problems = await database.read(
        lambda c: list(c.execute(select(_M.problem).where(*stuck).distinct()).scalars())
    )
    total = 0
    for problem in problems:
        total += await requeue(database, now, *stuck, _M.problem == problem)
    return total


async def requeue_held(
    database: Database, now: Millis, lane: LaneId, target: int, problem: Problem
) -> int:
    """`requeue` of what a target holds for this problem."""
    of_target = _M.lane == lane, _M.target == target
    return await requeue(database, now, *of_target, held_for(problem))


def held_for(problem: Problem) -> ColumnElement[bool]:
    return and_(in_state(State.HELD, memberships), _M.problem == problem.value)
