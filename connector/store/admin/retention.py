"""Deletion of what retention no longer keeps."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, delete, func, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.records import State
from connector.store.tables import (
    STUCK,
    commands,
    deferred_memberships,
    in_state,
    journal,
    outbox,
    requests,
)

NO_BODY = b"null"
"""What a record's body becomes when retention has cleared it."""
_FROM_SETTLED = (*STUCK, State.DISCARDED)
_LOOKBACK = 14 * 86_400_000
"""ms: bodies this much older than `before` are looked at again each night, so that a few missed
nights leave nothing behind."""


def prune_records(c: Connection, now: Millis, keep: Mapping[State, int], limit: int) -> int:
    """Each state within bounds of its own, so that no kept record is looked at twice: stuck rows
    by their index, all others by `seq`, which grows with time. The age of what is held, dead or
    discarded counts from when it became so."""
    deleted = 0
    for state, age in keep.items():
        cutoff = now - age
        since = func.coalesce(outbox.c.settled_at, outbox.c.received_at)
        at = since if state in _FROM_SETTLED else outbox.c.received_at
        query = select(outbox.c.seq).where(in_state(state), at < cutoff)
        if state is State.HELD:
            # What waits until its lane sends again is lost by a person's decision only.
            query = query.where(outbox.c.problem.is_distinct_from(Problem.NOT_LIVE.value))
        if state in STUCK:
            query = query.order_by(outbox.c.seq + 0)
        else:
            query = query.where(outbox.c.seq <= _last_before(c, cutoff)).order_by(outbox.c.seq)
        old = query.limit(limit - deleted)
        deleted += c.execute(delete(outbox).where(outbox.c.seq.in_(old))).rowcount
        if deleted >= limit:
            break
    return deleted


def prune_timeline(c: Connection, before: Millis, limit: int) -> int:
    deleted = 0
    for table, key, at in (
        (requests, requests.c.id, requests.c.sent_at),
        (journal, journal.c.id, journal.c.at),
        (deferred_memberships, deferred_memberships.c.id, deferred_memberships.c.at),
        (commands, commands.c.id, commands.c.done_at),
    ):
        old = select(key).where(at < before).order_by(at).limit(limit)
        deleted += c.execute(delete(table).where(key.in_(old))).rowcount
    return deleted


def clear_bodies(c: Connection, before: Millis, after: int, limit: int) -> int | None:
    start = max(after, _last_before(c, before - _LOOKBACK))
    end = min(start + limit, _last_before(c, before))
    if end <= start:
        return None
    c.execute(
        update(outbox)
        .where(
            outbox.c.seq > start,
            outbox.c.seq <= end,
            outbox.c.state.in_((State.ACCEPTED, State.SKIPPED)),
            outbox.c.data != NO_BODY,
        )
        .values(data=NO_BODY)
    )
    return end


def _last_before(c: Connection, at: int) -> int:
    """The newest seq received before `at`, by bisection: `seq` grows with time, and an index on
    the time would cost every insert for the sake of one nightly task. Off by the few records that
    were received at the same time and stored in another order."""
    low, high = c.execute(select(func.min(outbox.c.seq), func.max(outbox.c.seq))).one()
    if low is None:
        return 0
    low -= 1
    while low < high:
        middle = (low + high + 1) // 2
        query = select(outbox.c.received_at).where(outbox.c.seq <= middle)
        newest = c.execute(query.order_by(outbox.c.seq.desc()).limit(1)).scalar()
        if newest is None or newest < at:
            low = middle
        else:
            high = middle - 1
    return int(low)
