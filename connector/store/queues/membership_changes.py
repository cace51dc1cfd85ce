"""Membership rows that change in SQL. Their states and transitions are listed in
connector.store.queues.membership_state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.memberships import Change
from connector.domain.profile_state import address_hash
from connector.domain.records import State
from connector.ports import Member
from connector.store.people import groups as group_rows
from connector.store.people.groups import GroupRow
from connector.store.people.source_members import by_address, is_member
from connector.store.queues.membership_rows import held_for, lock, save
from connector.store.queues.membership_state import IN, OUT, MembershipRow, with_next_change
from connector.store.statements import chunks, upsert
from connector.store.tables import memberships

_M = memberships.c


# ── wanted ───────────────────────────────────────────────────────────────────────────────────────


def add_wanted(c: Connection, target: int, members: Sequence[Member], now: Millis) -> None:
    """A source of the target has these people: they should be on it."""
    emails = [member.email for member in members if member.email]
    wanted: set[str] = set()
    for part in chunks(emails):
        query = select(_M.email).where(_M.target == target, _M.email.in_(part), _M.wanted == IN)
        wanted.update(c.execute(query).scalars())
    new = [member for member in members if member.email and member.email not in wanted]
    if not new:
        return
    row = group_rows.get(c, target)
    held = {"state": State.HELD, "problem": Problem.FIRST_SYNC.value, "priority": 1}
    ready = {"state": State.READY, "problem": None, "priority": 0}
    common = {"lane": row.lane, "target": target, "wanted": IN, "due": now, "since": now}
    c.execute(
        _wanted_upsert(c),
        [
            {
                **common,
                **(ready if row.writes_enabled else held),
                "email": member.email,
                "address": address_hash(row.account, member.email or ""),
                "profile_id": member.profile_id,
                "platform_id": member.platform_id,
            }
            for member in new
        ],
    )


def _wanted_upsert(c: Connection) -> Any:
    """Of a row in flight only `wanted` and the ids change."""
    statement: Any = upsert(c.dialect.name, memberships)
    new = statement.excluded
    in_flight = _M.state == State.CLAIMED
    changes = {"attempts": 0, "failing_since": None, "detail": "", "change": Change.JOIN} | {
        name: new[name] for name in ("since", "priority", "problem")
    }
    changes["due"] = _not_while_ambiguous(new.due)
    return statement.on_conflict_do_update(
        index_elements=["target", "email"],
        set_={
            "wanted": IN,
            "profile_id": func.coalesce(new.profile_id, _M.profile_id),
            "platform_id": func.coalesce(new.platform_id, _M.platform_id),
            "state": case(
                (in_flight, int(State.CLAIMED)),
                (_M.confirmed == IN, int(State.ACCEPTED)),
                else_=new.state,
            ),
            **_unless(in_flight, changes),
        },
    )


def remove_wanted(c: Connection, target: GroupRow, which: ColumnElement[bool], now: Millis) -> int:
    """Those of `which` that no source of the target has any more should not be on it; returns how
    many of them are removed. Foreign members stay, unless the target's link removes them."""
    in_flight, removed = _M.state == State.CLAIMED, is_removable(target)
    where = (_M.target == target.id, _M.wanted == IN, which, ~is_member(target.id, _M.email))
    count = int(c.execute(select(func.count()).where(*where, removed)).scalar_one())
    state = case(
        (in_flight, int(State.CLAIMED)), (removed, int(State.READY)), else_=int(State.ACCEPTED)
    )
    changes = {
        "attempts": 0,
        "failing_since": None,
        "problem": None,
        "detail": "",
        "change": Change.LEAVE,
    }
    changes |= {"due": _not_while_ambiguous(now), "since": now, "priority": 0}
    c.execute(
        update(memberships)
        .where(*where)
        .values(wanted=OUT, state=state, **_unless(in_flight, changes))
    )
    return count


def _not_while_ambiguous(due: Any) -> Any:
    return case((_M.ambiguous_until > due, _M.ambiguous_until), else_=due)


def _unless(condition: ColumnElement[bool], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The columns get these values, except in rows that meet the condition."""
    return {name: case((condition, _M[name]), else_=value) for name, value in changes.items()}


def is_removable(target: GroupRow) -> ColumnElement[bool]:
    """Whether a member of this target is removed when no source has them: also one who is being
    added, because the leave follows the join that is in flight."""
    joining = and_(_M.state == State.CLAIMED, _M.sent == IN)
    added = or_(and_(_M.added_by_us == 1, _M.confirmed.is_distinct_from(OUT)), joining)
    return or_(added, _M.confirmed == IN) if target.removes_foreign else added


def remove_foreign(c: Connection, target: GroupRow, where: ColumnElement[bool], now: Millis) -> int:
    if not target.removes_foreign:
        return 0
    foreign = (where, _M.wanted == OUT, _M.confirmed == IN, _M.state == State.ACCEPTED)
    leave = {"state": State.READY, "change": Change.LEAVE, "priority": 1, "due": now, "since": now}
    return c.execute(update(memberships).where(*foreign).values(leave)).rowcount


def resend_unconfirmed(
    c: Connection, target: GroupRow, where: ColumnElement[bool], now: Millis
) -> int:
    accepted = (where, _M.unconfirmed == 1, _M.state == State.ACCEPTED)
    again = {"state": State.READY, "priority": 1, "due": now, "since": now}
    return c.execute(
        update(memberships).where(*accepted).values(change=1 - _M.wanted, **again)
    ).rowcount


# ── the target as it is ──────────────────────────────────────────────────────────────────────────


def save_listed(
    c: Connection,
    target: GroupRow,
    members: Sequence[Member],
    requested_at: Millis,
    now: Millis,
) -> None:
    """The target lists these people, on a page that was requested then. A change that is in flight
    or was sent later is newer than the page."""
    people = by_address(c, target.connection, members)
    rows: dict[str, MembershipRow] = {}
    for part in chunks(list(people)):
        found = lock(c, _M.target == target.id, _M.email.in_(part))
        rows.update((row.email, row) for row in found)
    changes = []
    for email, row in rows.items():
        listed = {
            "last_seen_scan": target.scan,
            "profile_id": people[email].profile_id or row.profile_id,
        }
        changed_at = max(row.settled_at, row.ambiguous_until)
        page_is_older = row.state == State.CLAIMED or changed_at >= requested_at
        if row.confirmed == IN or page_is_older:
            changes.append({"id": row.id, **listed})
        else:
            next_change = with_next_change(row, now, priority=row.priority, confirmed=IN)
            changes.append(next_change | listed)
    save(c, changes)
    _insert_foreign(c, target, [m for email, m in people.items() if email not in rows], now)


def _insert_foreign(
    c: Connection, target: GroupRow, members: Sequence[Member], now: Millis
) -> None:
    if not members:
        return
    common = {"lane": target.lane, "target": target.id, "due": now, "since": now}
    common |= {"wanted": OUT, "confirmed": IN, "state": State.ACCEPTED}
    c.execute(
        insert(memberships),
        [
            {
                **common,
                "email": member.email,
                "address": address_hash(target.account, member.email or ""),
                "last_seen_scan": target.scan,
                "profile_id": member.profile_id,
            }
            for member in members
        ],
    )


def save_manual_removals(
    c: Connection, target: GroupRow, where: ColumnElement[bool], re_add: bool, now: Millis
) -> int:
    """After a complete read-back: wanted members that it did not list, and to which nothing was
    sent since it began, were removed by hand. Rows that are neither wanted nor listed are deleted.
    Returns how many were removed by hand and are not settled yet."""
    before = (target.completed_at or 0) - target.scan_ms
    old = and_(where, _M.state != State.CLAIMED, _M.settled_at < before)
    missing = and_(old, _M.confirmed == IN, _M.last_seen_scan < target.completed_scan)
    away = and_(old, _M.wanted == OUT, or_(_M.confirmed == OUT, missing))
    c.execute(delete(memberships).where(away))
    held = and_(where, held_for(Problem.REMOVED_BY_HAND))
    changes = {"confirmed": OUT, "change": Change.JOIN, "detail": "", "attempts": 0}
    changes["due"] = _not_while_ambiguous(now)
    wanted = update(memberships).where(missing, _M.wanted == IN)
    if not target.writes_enabled:
        first_sync = {"state": State.HELD, "problem": Problem.FIRST_SYNC.value}
        c.execute(wanted.values(changes | first_sync))
        return 0
    if re_add:
        ready = {"state": State.READY, "problem": None, "priority": 0}
        again = or_(and_(missing, _M.wanted == IN), held)
        return c.execute(update(memberships).where(again).values(changes | ready)).rowcount
    removed = {"state": State.HELD, "problem": Problem.REMOVED_BY_HAND.value}
    c.execute(wanted.values(changes | removed))
    return int(c.execute(select(func.count()).where(held)).scalar_one())


def count_listed(c: Connection, target: GroupRow) -> int:
    """How many members the last read-back has listed."""
    listed = (_M.target == target.id, _M.last_seen_scan == target.scan)
    return int(c.execute(select(func.count()).where(*listed)).scalar_one())
