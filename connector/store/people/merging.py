"""Two people turn out to be one: everything that belongs to the one belongs to the other from then
on, in the transaction that finds it out."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from connector.domain.lanes import Millis
from connector.domain.records import State
from connector.store.people import identifiers
from connector.store.people.identifiers import PersonRow
from connector.store.queues import action_identity, profile_merging
from connector.store.tables import (
    deferred_memberships,
    journal,
    merges,
    outbox,
    people,
    reads,
)

_FOLLOWING = (outbox, journal, deferred_memberships)
"""Tables whose rows only change their person."""


def merge(c: Connection, keep: PersonRow, gone: PersonRow, now: Millis) -> PersonRow:
    """Merge `gone` into `keep`; returns the person as they are now. Of two addresses they have the
    one that was seen last. Records that wait for it are released by the caller."""
    columns = (people.c.id, people.c.seen_at, people.c.gone_at)
    query = select(*columns).where(people.c.id.in_([keep.id, gone.id]))
    rows = {row.id: row for row in c.execute(query)}
    seen: dict[int, Millis] = {id: row.seen_at for id, row in rows.items()}
    first, second = (gone, keep) if seen[gone.id] > seen[keep.id] else (keep, gone)
    merged = keep._replace(
        platform_id=keep.platform_id or gone.platform_id, email=first.email or second.email
    )
    identifiers.move(c, gone.id, keep.id)
    c.execute(delete(people).where(people.c.id == gone.id))
    c.execute(
        update(people)
        .where(people.c.id == keep.id)
        .values(
            platform_id=merged.platform_id,
            email=merged.email,
            seen_at=max(seen[keep.id], seen[gone.id]),
        )
    )
    c.execute(update(merges).where(merges.c.merged_into == gone.id).values(merged_into=keep.id))
    c.execute(insert(merges).values(person=gone.id, merged_into=keep.id))
    for table in _FOLLOWING:
        c.execute(update(table).where(table.c.person == gone.id).values(person=keep.id))
    action_identity.move(c, keep.connection, gone.id, keep.id)
    action_identity.mark_releasable(c, keep.connection, [keep.id])
    if _merge_reads(c, keep.id, gone.id, now):
        known = {"gone_at": rows[gone.id].gone_at}
        c.execute(update(people).where(people.c.id == keep.id).values(known))
    profile_merging.merge(c, keep.id, gone.id, now)
    return merged


def survivors(c: Connection, people: list[int]) -> dict[int, int]:
    """Of these numbers, those who were merged → the person they were merged into."""
    query = select(merges.c.person, merges.c.merged_into).where(merges.c.person.in_(people))
    return {row.person: row.merged_into for row in c.execute(query)}


def _merge_reads(c: Connection, keep: int, gone: int, now: Millis) -> bool:
    """One read from two; whether the last answer was that about `gone`. The answer to a read of
    `gone` that is in flight is not used: the person is read again."""
    query = select(reads).where(reads.c.person.in_([keep, gone])).with_for_update()
    rows = {row.person: row for row in c.execute(query)}
    old, kept = rows.get(gone), rows.get(keep)
    if old is None:
        return False
    if kept is None:
        values: dict[str, Any] = {"person": keep}
        if old.state == State.CLAIMED:
            values |= {"state": State.READY, "claim": None, "due": now}
        c.execute(update(reads).where(reads.c.person == gone).values(values))
        return True
    c.execute(delete(reads).where(reads.c.person == gone))
    c.execute(update(reads).where(reads.c.person == keep).values(_merged_read(kept, old, now)))
    return (old.view_at or 0) > (kept.view_at or 0)


def _merged_read(kept: Any, old: Any, now: Millis) -> dict[str, Any]:
    values: dict[str, Any] = {
        "refetch": max(kept.refetch, old.refetch),
        "backfill": func.coalesce(reads.c.backfill, old.backfill),
        "requested_at": max(kept.requested_at, old.requested_at),
    }
    if (old.view_at or 0) > (kept.view_at or 0):
        values |= {"view": old.view, "view_at": old.view_at}
    if old.state not in (State.READY, State.CLAIMED):
        return values
    if kept.state == State.CLAIMED:
        # One more read follows the one in flight.
        return values | {"requested_at": max(values["requested_at"], kept.sent_at + 1)}
    waiting = kept.state == State.READY
    return values | {
        "state": State.READY,
        "due": min(kept.due, old.due) if waiting else now,
        "priority": min(kept.priority, old.priority) if waiting else old.priority,
        "attempts": 0,
        "failing_since": None,
        "problem": None,
        "detail": "",
    }
