"""Joins and leaves that a platform reports by itself."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, delete, insert, select

from connector.domain.lanes import Millis
from connector.ports import Member
from connector.store.people import groups as group_rows
from connector.store.people import source_members
from connector.store.queues.membership_changes import add_wanted, remove_wanted
from connector.store.statements import chunks
from connector.store.tables import deferred_memberships, memberships


def apply(
    c: Connection, connection: str, audience: str, member: Member, joined: bool, at: Millis
) -> None:
    """The member joined or left an audience, given by its id or name. Older information than what
    is known changes nothing."""
    for source in group_rows.audiences(c, connection, audience):
        if not source_members.save_event(c, source, member, joined, at):
            continue
        if joined:
            add_wanted(c, source.target, [member], at)
        else:
            target = group_rows.lock(c, source.target)
            remove_wanted(c, target, memberships.c.email == member.email, at)


def defer(
    c: Connection,
    connection: str,
    person: int,
    platform_id: str | None,
    membership: tuple[str, bool],
    at: Millis,
) -> None:
    """Keep a change of a person whose address is not known yet."""
    audience, joined = membership
    c.execute(
        insert(deferred_memberships).values(
            connection=connection,
            person=person,
            platform_id=platform_id,
            audience=audience,
            joined=int(joined),
            at=at,
        )
    )


def apply_deferred(c: Connection, new_addresses: Mapping[int, str]) -> None:
    """The addresses of these people are known now: apply their changes as of when they were
    received."""
    d = deferred_memberships.c
    columns = (d.id, d.connection, d.person, d.platform_id, d.audience, d.joined, d.at)
    for part in chunks(list(new_addresses)):
        rows = c.execute(select(*columns).where(d.person.in_(part)).order_by(d.id)).all()
        for _, connection, person, platform_id, audience, joined, at in rows:
            member = Member(platform_id, new_addresses[person].strip().lower())
            apply(c, connection, audience, member, bool(joined), at)
        if rows:
            done = d.id.in_([row[0] for row in rows])
            c.execute(delete(deferred_memberships).where(done))
