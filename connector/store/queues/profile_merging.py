"""Two profiles of people who turn out to be one, in SQL. What the merged profile contains is
connector.domain.profile_merging."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, update

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.profile_merging import merge_profiles
from connector.domain.records import State
from connector.store.queues import profile_rows
from connector.store.queues.profile_changes import requeue
from connector.store.queues.profile_rows import ProfileRow, Values, profile_columns
from connector.store.tables import profiles


def merge(c: Connection, keep: int, gone: int, now: Millis) -> None:
    """The profile of `gone` becomes a part of that of `keep`: at once, or when its write in flight
    has ended. Until then the row holds its address, so that no second write goes there."""
    into_gone = and_(profiles.c.merged_into == gone, profiles.c.merged_into.is_not(None))
    c.execute(update(profiles).where(into_gone).values(merged_into=keep))
    row = profile_rows.lock(c, [gone]).get(gone)
    if row is None:
        return
    if row.state == State.CLAIMED:
        c.execute(update(profiles).where(profiles.c.person == gone).values(merged_into=keep))
    else:
        _fold(c, row, keep, now)


def fold_ended(c: Connection, rows: Sequence[ProfileRow], now: Millis) -> None:
    """Of rows whose outcome was saved, those that were merged become a part of the other profile,
    unless their write is still in flight."""
    merged = {row.person: row.merged_into for row in rows if row.merged_into is not None}
    if not merged:
        return
    for row in profile_rows.lock(c, list(merged)).values():
        into = merged[row.person]
        if row.state != State.CLAIMED and into is not None:
            _fold(c, row, into, now)


def _fold(c: Connection, gone: ProfileRow, keep: int, now: Millis) -> None:
    kept = profile_rows.lock(c, [keep]).get(keep)
    if kept is None:
        moved = {"person": keep, "merged_into": None}
        c.execute(update(profiles).where(profiles.c.person == gone.person).values(moved))
        return
    removed = delete(profiles).where(profiles.c.person == gone.person)
    until = c.execute(removed.returning(profiles.c.ambiguous_until)).scalar_one()
    profile_rows.save(c, [_merged(kept, gone, now)])
    # What may still be applied of the one may contradict the next write of the other.
    later = profiles.c.person == keep, profiles.c.ambiguous_until < until
    c.execute(update(profiles).where(*later).values(ambiguous_until=until))


def _merged(kept: ProfileRow, gone: ProfileRow, now: Millis) -> Values:
    profile = merge_profiles(kept.profile, gone.profile)
    has_shared = Problem.SHARED_ADDRESS.value
    owner = kept if profile.identity == kept.profile.identity else gone
    if kept.state != State.CLAIMED and (not profile.identity or owner.problem == has_shared):
        problem = has_shared if profile.identity else Problem.NO_IDENTITY.value
        return profile_rows.idle_columns(profile) | {"state": State.HELD, "problem": problem}
    backfill = bool(kept.priority and gone.priority)
    if kept.state == State.CLAIMED:
        return profile_columns(profile) | {"priority": min(kept.priority, gone.priority)}
    return requeue(kept, profile, now, since=min(kept.since, gone.since), backfill=backfill)
