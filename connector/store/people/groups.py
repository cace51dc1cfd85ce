"""Who is in which group, in SQL: scans staged page by page, and what follows for the targets.

A person is believed to be in a source from the first word that says so until a complete scan does
not find him, or a push says that he left; an older word never undoes a newer one. Whatever walks a
whole group does so a range of addresses at a time, so that nobody waits long for the writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, Millis
from connector.domain.memberships import Group, Link
from connector.domain.profile_state import address_hash
from connector.domain.records import Record, State
from connector.ports import Member, MembersPage, PersonKey
from connector.store.people import tombstones
from connector.store.queues.queue import chunks
from connector.store.tables import deferred_memberships, groups, memberships, source_members

IN, OUT = 1, 0
_RANGE = 20_000
"""Rows between one commit of a walk and the next."""


# ── groups ───────────────────────────────────────────────────────────────────────────────────────


def link(c: Connection, lane: Lane, links: Sequence[Link], account: str) -> None:
    """The lane's links are these from now on; a source that is linked anew is read from scratch."""
    source, target = kinds = _kinds(lane)
    mine = and_(groups.c.connection == lane.connection, groups.c.kind.in_(kinds))
    c.execute(update(groups).where(mine).values(active=0))
    common = {"connection": lane.connection, "lane": lane.id, "account": account, "active": 1}
    for each in links:
        about = common | {
            "kind": target,
            "name": each.target,
            "remove_foreign": int(each.remove_foreign),
        }
        kept = _ensure(
            c, about | {"target": 0} | ({"writes_enabled": 1} if target == "tag" else {})
        )
        _ensure(c, common | {"kind": source, "name": each.source, "target": kept})


def _kinds(lane: Lane) -> tuple[str, str]:
    return ("audience", "list") if lane.destination == "klaviyo" else ("segment", "tag")


def _ensure(c: Connection, values: Mapping[str, Any]) -> int:
    key = [groups.c[name] == values[name] for name in ("connection", "kind", "name", "target")]
    known: int | None = c.execute(select(groups.c.id).where(*key)).scalar()
    if known is None:
        return int(c.execute(insert(groups).values(values).returning(groups.c.id)).scalar_one())
    c.execute(update(groups).where(groups.c.id == known).values(values))
    return known


def lock_group(c: Connection, id: int) -> Any:
    """A group's row, which nobody else changes meanwhile."""
    return c.execute(select(groups).where(groups.c.id == id).with_for_update()).one()


def group_of(row: Any) -> Group:
    return Group(
        id=row.id,
        connection=row.connection,
        kind=row.kind,
        name=row.name,
        target=row.target,
        remote_id=row.remote_id,
        title=row.title,
        writes_enabled=bool(row.writes_enabled),
        scan=row.scan,
        cursor=row.cursor,
        scan_started_at=row.scan_started_at,
        saved_at=row.saved_at,
        completed_scan=row.completed_scan,
        completed_at=row.completed_at,
        scan_ms=row.scan_ms,
        applied_scan=row.applied_scan,
        members=row.members,
        without_address=row.without_address,
        problem=Problem.from_code(row.problem) if row.problem else None,
        detail=row.detail,
    )


def change(c: Connection, id: int, **values: Any) -> Group:
    c.execute(update(groups).where(groups.c.id == id).values(values))
    return group_of(c.execute(select(groups).where(groups.c.id == id)).one())


def begin(c: Connection, id: int, now: Millis) -> Group:
    number = lock_group(c, id).scan + 1
    return change(
        c, id, scan=number, cursor=None, scan_started_at=now, saved_at=now, without_address=0
    )


def save_page(c: Connection, row: Any, page: MembersPage, now: Millis, **values: Any) -> Group:
    """Where the next page begins; after the last one the scan is complete."""
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


# ── what is known of a source ────────────────────────────────────────────────────────────────────


class SourceMemberRow(NamedTuple):
    """What a person's row in `sightings` says."""

    gone: int
    scan: int
    at: int
    joined_at: int | None


def stage(
    c: Connection,
    row: Any,
    members: Sequence[Member],
    *,
    asked_at: Millis,
    now: Millis,
    greets: bool,
) -> None:
    """These people are in the source, says a page that was asked for then."""
    people = by_address(c, row.connection, members)
    known = _known_members(c, row.id, list(people))
    affected = [e for e in people if not (e in known and known[e].gone and known[e].at >= asked_at)]
    if affected:
        c.execute(
            _upsert(c, source_members, ("source", "email"), _MEMBER_COLUMNS),
            [
                {
                    "source": row.id,
                    "email": email,
                    "scan": row.scan,
                    "at": asked_at,
                    "gone": 0,
                    "join_pending": int(
                        greets and _is_new_join(people[email], known.get(email), row.applied_scan)
                    ),
                    "joined_at": people[email].joined_at,
                    "profile_id": people[email].profile_id,
                    "platform_id": people[email].platform_id,
                }
                for email in affected
            ],
        )
    add_wanted(c, row.target, [people[email] for email in affected], now)


def by_address(c: Connection, connection: str, members: Sequence[Member]) -> dict[str, Member]:
    """Those with an address whom the connection was not told to forget."""
    named = [PersonKey(member.platform_id, member.email) for member in members]
    erased = tombstones.load(c, connection, named)
    pairs = zip(members, named, strict=True)
    return {m.email: m for m, name in pairs if m.email and not erased.contains(name)}


def _is_new_join(member: Member, known: SourceMemberRow | None, applied: int) -> bool:
    if known is None or known.gone or known.scan < applied:
        return True
    return bool(member.joined_at and known.joined_at and member.joined_at > known.joined_at)


def apply_change(
    c: Connection, connection: str, audience: str, member: Member, joined: bool, at: Millis
) -> None:
    """Somebody joined or left, says the platform by itself. `audience` is its id or name."""
    query = select(groups).where(
        groups.c.connection == connection,
        groups.c.kind == "audience",
        groups.c.active == 1,
        or_(groups.c.name == audience, groups.c.remote_id == audience, groups.c.title == audience),
    )
    for row in c.execute(query).all():
        known = _known_members(c, row.id, [member.email or ""]).get(member.email or "")
        if known and known.at > at:
            continue
        values = {
            "source": row.id,
            "email": member.email,
            "scan": row.scan,
            "at": at,
            "gone": int(not joined),
            "join_pending": 0,
            "joined_at": None,
            "profile_id": None,
            "platform_id": member.platform_id,
        }
        c.execute(_upsert(c, source_members, ("source", "email"), _MEMBER_COLUMNS), [values])
        if joined:
            add_wanted(c, row.target, [member], at)
        else:
            here = memberships.c.email == member.email
            remove_wanted(c, lock_group(c, row.target), here, at, priority=0)


def defer_change(c: Connection, connection: str, person: int, record: Record, at: Millis) -> None:
    """A push about somebody whose address is not known yet waits for it."""
    assert record.membership is not None
    audience, joined = record.membership
    values = {"connection": connection, "person": person, "audience": audience}
    values |= {"joined": int(joined), "platform_id": record.person, "at": at}
    c.execute(insert(deferred_memberships).values(values))


def apply_deferred(c: Connection, new_addresses: Mapping[int, str]) -> None:
    """Addresses of these people are known now: what was pushed about them counts as of then."""
    for part in chunks(list(new_addresses)):
        waiting = (
            select(deferred_memberships)
            .where(deferred_memberships.c.person.in_(part))
            .order_by(deferred_memberships.c.id)
        )
        rows = c.execute(waiting).all()
        for row in rows:
            who = Member(row.platform_id, new_addresses[row.person].strip().lower())
            apply_change(c, row.connection, row.audience, who, bool(row.joined), row.at)
        if rows:
            c.execute(
                delete(deferred_memberships).where(
                    deferred_memberships.c.id.in_([row.id for row in rows])
                )
            )


_MEMBER_COLUMNS = ("scan", "at", "gone", "join_pending", "joined_at", "profile_id", "platform_id")


def _known_members(c: Connection, source: int, emails: Sequence[str]) -> dict[str, SourceMemberRow]:
    found: dict[str, SourceMemberRow] = {}
    for part in chunks(emails):
        s = source_members.c
        query = select(s.email, s.gone, s.scan, s.at, s.joined_at).where(
            s.source == source, s.email.in_(part)
        )
        found.update((email, SourceMemberRow(*rest)) for email, *rest in c.execute(query))
    return found


def _upsert(c: Connection, table: Any, key: tuple[str, ...], names: tuple[str, ...]) -> Any:
    """A person who is to be greeted stays so, whatever else is heard of him."""
    sql_dialect = postgresql if c.dialect.name == "postgresql" else sqlite
    statement: Any = sql_dialect.insert(table)
    new = statement.excluded
    changes = {name: new[name] for name in names}
    for name in ("joined_at", "profile_id", "platform_id"):
        changes[name] = func.coalesce(new[name], table.c[name])
    changes["join_pending"] = case(
        (new.gone == 1, 0), (table.c.join_pending == 1, 1), else_=new.join_pending
    )
    return statement.on_conflict_do_update(index_elements=list(key), set_=changes)


def is_member(target: Any, email: Any, *, if_applied: int | None = None) -> ColumnElement[bool]:
    """Whether one of the target's sources has this person, or would have him once the last
    complete scan of the source `if_applied` is applied."""
    applied: Any = groups.c.applied_scan
    if if_applied is not None:
        applied = case((groups.c.id == if_applied, groups.c.completed_scan), else_=applied)
    return exists(
        select(literal(1))
        .select_from(groups.join(source_members, source_members.c.source == groups.c.id))
        .where(
            groups.c.target == target,
            groups.c.active == 1,
            source_members.c.email == email,
            source_members.c.gone == 0,
            source_members.c.scan >= applied,
        )
    )


# ── what follows for a target ────────────────────────────────────────────────────────────────────


def add_wanted(c: Connection, target: int, members: Sequence[Member], now: Millis) -> None:
    """These people should be on the target."""
    emails = [member.email for member in members if member.email]
    there: set[str] = set()
    for part in chunks(emails):
        query = select(memberships.c.email).where(
            memberships.c.target == target,
            memberships.c.email.in_(part),
            memberships.c.wanted == IN,
        )
        there.update(c.execute(query).scalars())
    new = [member for member in members if member.email and member.email not in there]
    if not new:
        return
    row = c.execute(select(groups).where(groups.c.id == target)).one()
    held = {"state": State.HELD, "problem": Problem.FIRST_SYNC.value, "priority": 1}
    ready = {"state": State.READY, "problem": None, "priority": 0}
    common = {"lane": row.lane, "target": target, "wanted": IN, "due": now, "since": now}
    c.execute(
        _wanted_upsert(c),
        [
            common
            | (ready if row.writes_enabled else held)
            | {
                "email": member.email,
                "address": address_hash(row.account, member.email or ""),
                "profile_id": member.profile_id,
                "platform_id": member.platform_id,
            }
            for member in new
        ],
    )


def _wanted_upsert(c: Connection) -> Any:
    """One whose change is in flight goes on as it is: what it came to decides what follows."""
    sql_dialect = postgresql if c.dialect.name == "postgresql" else sqlite
    statement: Any = sql_dialect.insert(memberships)
    new, old = statement.excluded, memberships.c
    in_flight = old.state == State.CLAIMED
    reset = {"attempts": 0, "failing_since": None, "detail": "", "solo": 0}
    fresh = {name: new[name] for name in ("due", "since", "priority", "problem")}
    return statement.on_conflict_do_update(
        index_elements=["target", "email"],
        set_={
            "wanted": IN,
            "profile_id": func.coalesce(new.profile_id, old.profile_id),
            "platform_id": func.coalesce(new.platform_id, old.platform_id),
            "state": case(
                (in_flight, int(State.CLAIMED)),
                (old.confirmed == IN, int(State.ACCEPTED)),
                else_=new.state,
            ),
            **{name: case((in_flight, old[name]), else_=v) for name, v in (reset | fresh).items()},
        },
    )


def remove_wanted(
    c: Connection, target: Any, which: ColumnElement[bool], now: Millis, *, priority: int
) -> int:
    """Those of `which` whom no source has any more should be off it; returns how many are taken
    off. Of those whom we did not put there only foreign ones that are to go are taken off."""
    m = memberships.c
    in_flight, affected = m.state == State.CLAIMED, would_be_removed(target)
    rest = {"attempts": 0, "failing_since": None, "problem": None, "detail": "", "solo": 1}
    rest |= {"due": now, "since": now, "priority": priority}
    where = (m.target == target.id, m.wanted == IN, which, ~is_member(target.id, m.email))
    count = c.execute(select(func.count()).where(*where, affected)).scalar_one()
    state = case(
        (in_flight, int(State.CLAIMED)), (affected, int(State.READY)), else_=int(State.ACCEPTED)
    )
    kept = {name: case((in_flight, m[name]), else_=value) for name, value in rest.items()}
    c.execute(update(memberships).where(*where).values(wanted=OUT, state=state, **kept))
    return count


def would_be_removed(target: Any) -> ColumnElement[bool]:
    """Who would be taken off, were he not wanted."""
    m = memberships.c
    added = and_(m.added_by_us == 1, m.confirmed.is_distinct_from(OUT))
    if target.remove_foreign and target.writes_enabled:
        return or_(added, m.confirmed == IN)
    return added


def range_end(c: Connection, of: Select[Any], column: Any, after: str) -> str | None:
    """The address that ends the next range after this one; None: no more than a range is left."""
    query = of.where(column > after).order_by(column).offset(_RANGE).limit(1)
    end: str | None = c.execute(query).scalar()
    return end


def sweep(c: Connection, source: Any, after: str) -> str | None:
    """Forget those whom the last complete scan did not find, a range at a time."""
    s = source_members.c
    end = range_end(c, select(s.email).where(s.source == source.id), s.email, after)
    old = and_(s.source == source.id, s.email > after, s.scan < source.applied_scan)
    c.execute(delete(source_members).where(old if end is None else and_(old, s.email <= end)))
    return end


def to_greet(c: Connection, source: int, limit: int) -> list[Member]:
    s = source_members.c
    query = (
        select(s.email, s.platform_id, s.profile_id, s.joined_at, s.at)
        .where(s.source == source, s.join_pending == 1)
        .order_by(s.email)
        .limit(limit)
    )
    return [
        Member(platform_id, email, profile, Millis(joined or at))
        for email, platform_id, profile, joined, at in c.execute(query)
    ]


def greeted(c: Connection, source: int, emails: Sequence[str]) -> None:
    one = and_(source_members.c.source == source, source_members.c.email == bindparam("who"))
    c.execute(
        update(source_members).where(one).values(join_pending=0), [{"who": e} for e in emails]
    )
