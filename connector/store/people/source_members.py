"""Who is in a source (audience or segment), as far as known.

A person is in a source from the first information that says so until a complete scan does not find
them, or a platform reports that they left. Older information never replaces newer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    select,
    update,
)

from connector.domain.lanes import Millis
from connector.ports import Member, PersonKey
from connector.store.people import tombstones
from connector.store.people.groups import GroupRow, range_end
from connector.store.statements import chunks, upsert
from connector.store.tables import groups, source_members

_S = source_members.c
_COLUMNS = ("scan", "at", "gone", "join_pending", "joined_at", "profile_id", "platform_id")


class _KnownMember(NamedTuple):
    gone: int
    scan: int
    at: int
    joined_at: int | None


def stage(
    c: Connection,
    source: GroupRow,
    members: Sequence[Member],
    *,
    requested_at: Millis,
    track_joins: bool,
) -> list[Member]:
    """Save the members of a page that was requested then. Returns those that are in the source
    now: all but those who left according to newer information."""
    people = by_address(c, source.connection, members)
    known = _known_members(c, source.id, list(people))
    present = {
        email: member
        for email, member in people.items()
        if not (email in known and known[email].gone and known[email].at >= requested_at)
    }
    rows = [
        {
            "source": source.id,
            "email": email,
            "scan": source.scan,
            "at": requested_at,
            "gone": 0,
            "join_pending": int(
                track_joins and _is_new_join(member, known.get(email), source.applied_scan)
            ),
            "joined_at": member.joined_at,
            "profile_id": member.profile_id,
            "platform_id": member.platform_id,
        }
        for email, member in present.items()
    ]
    if rows:
        c.execute(_upsert(c), rows)
    return list(present.values())


def by_address(c: Connection, connection: str, members: Sequence[Member]) -> dict[str, Member]:
    """The members that have an address and were not erased from the connection."""
    keys = [PersonKey(member.platform_id, member.email) for member in members]
    erased = tombstones.load(c, connection, keys)
    pairs = zip(members, keys, strict=True)
    return {m.email: m for m, key in pairs if m.email and not erased.contains(key)}


def _is_new_join(member: Member, known: _KnownMember | None, applied: int) -> bool:
    if known is None or known.gone or known.scan < applied:
        return True
    return bool(member.joined_at and known.joined_at and member.joined_at > known.joined_at)


def save_event(c: Connection, source: GroupRow, member: Member, joined: bool, at: Millis) -> bool:
    """Save that a member joined or left, reported by the platform; False where that is older than
    what is known."""
    email = member.email or ""
    known = _known_members(c, source.id, [email]).get(email)
    if known and known.at > at:
        return False
    row = {
        "source": source.id,
        "email": email,
        "scan": source.scan,
        "at": at,
        "gone": int(not joined),
        "join_pending": 0,
        "joined_at": None,
        "profile_id": None,
        "platform_id": member.platform_id,
    }
    c.execute(_upsert(c), [row])
    return True


def _known_members(c: Connection, source: int, emails: Sequence[str]) -> dict[str, _KnownMember]:
    found: dict[str, _KnownMember] = {}
    for part in chunks(emails):
        query = select(_S.email, _S.gone, _S.scan, _S.at, _S.joined_at).where(
            _S.source == source, _S.email.in_(part)
        )
        found.update((email, _KnownMember(*rest)) for email, *rest in c.execute(query))
    return found


def _upsert(c: Connection) -> Any:
    """A join that is not handled yet stays so until the person leaves."""
    statement: Any = upsert(c.dialect.name, source_members)
    new = statement.excluded
    changes = {name: new[name] for name in _COLUMNS}
    for name in ("joined_at", "profile_id", "platform_id"):
        changes[name] = func.coalesce(new[name], _S[name])
    changes["join_pending"] = case(
        (new.gone == 1, 0), (_S.join_pending == 1, 1), else_=new.join_pending
    )
    return statement.on_conflict_do_update(index_elements=["source", "email"], set_=changes)


def is_member(
    target: int, email: ColumnElement[str], *, if_applied: int | None = None
) -> ColumnElement[bool]:
    """Whether one of the target's sources has this person, or would have them once the last
    complete scan of the source `if_applied` is applied."""
    applied: ColumnElement[int] = groups.c.applied_scan
    if if_applied is not None:
        applied = case((groups.c.id == if_applied, groups.c.completed_scan), else_=applied)
    return exists(
        select(literal(1))
        .select_from(groups.join(source_members, _S.source == groups.c.id))
        .where(
            groups.c.target == target,
            groups.c.active == 1,
            _S.email == email,
            _S.gone == 0,
            _S.scan >= applied,
        )
    )


def count_scanned(c: Connection, source: GroupRow) -> int:
    """How many members the last scan has found."""
    found = (_S.source == source.id, _S.gone == 0, _S.scan == source.scan)
    return int(c.execute(select(func.count()).where(*found)).scalar_one())


def delete_unlisted(c: Connection, source: GroupRow, after: str, rows: int) -> str | None:
    """Delete the people that the applied scan did not find, in one range of `rows` addresses;
    returns where the next range begins, None at the end."""
    end = range_end(c, select(_S.email).where(_S.source == source.id), _S.email, after, rows)
    old = and_(_S.source == source.id, _S.email > after, _S.scan < source.applied_scan)
    c.execute(delete(source_members).where(old if end is None else and_(old, _S.email <= end)))
    return end


# ── joins ────────────────────────────────────────────────────────────────────────────────────────


def unhandled_joins(c: Connection, source: int, limit: int) -> list[Member]:
    query = (
        select(_S.email, _S.platform_id, _S.profile_id, _S.joined_at, _S.at)
        .where(_S.source == source, _S.join_pending == 1)
        .order_by(_S.email)
        .limit(limit)
    )
    return [
        Member(platform_id, email, profile_id, Millis(joined_at or at))
        for email, platform_id, profile_id, joined_at, at in c.execute(query)
    ]


def mark_joins_handled(c: Connection, source: int, joined: Sequence[Member]) -> None:
    same = func.coalesce(_S.joined_at, 0) <= bindparam("joined")
    one = and_(_S.source == source, _S.email == bindparam("address"), same)
    c.execute(
        update(source_members).where(one).values(join_pending=0),
        [{"address": member.email, "joined": member.joined_at} for member in joined],
    )
