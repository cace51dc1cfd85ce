"""Deletion of what retention no longer keeps."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.records import State
from connector.ports import Pruned
from connector.store.queues.outbox_rows import by_stuck_index
from connector.store.tables import (
    STUCK,
    commands,
    deferred_memberships,
    is_stuck,
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


def prune_records(
    c: Connection, now: Millis, keep: Mapping[State, int], after: int, limit: int
) -> Pruned:
    """A range of records by `seq`, which grows with time, so that no kept record is looked at twice
    in one night; stuck ones by their index. The age of what is held, dead or discarded counts from
    when it became so."""
    candidates = select(outbox.c.seq).where(outbox.c.seq > after)
    if keep.keys() <= set(STUCK):
        candidates = by_stuck_index(candidates.where(is_stuck(outbox)))
    else:
        newest = last_before(c, outbox, now - min(keep.values()))
        candidates = candidates.where(outbox.c.seq <= newest)
    page = list(c.execute(candidates.order_by(outbox.c.seq).limit(limit)).scalars())
    if not page:
        return Pruned(0, None)
    seqs = outbox.c.seq > after, outbox.c.seq <= page[-1]
    old = or_(*(_is_old(state, now - age) for state, age in keep.items()))
    deleted = c.execute(delete(outbox).where(*seqs, old)).rowcount
    return Pruned(deleted, page[-1] if len(page) == limit else None)


def _is_old(state: State, cutoff: int) -> ColumnElement[bool]:
    since = func.coalesce(outbox.c.settled_at, outbox.c.received_at)
    at = since if state in _FROM_SETTLED else outbox.c.received_at
    old = and_(outbox.c.state == state, at < cutoff)
    if state is State.HELD:
        # What waits until its lane sends again is lost by a person's decision only.
        return and_(old, outbox.c.problem.is_distinct_from(Problem.NOT_LIVE.value))
    return old


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
    start = max(after, last_before(c, outbox, before - _LOOKBACK))
    end = min(start + limit, last_before(c, outbox, before))
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


def last_before(c: Connection, table: Table, at: int) -> int:
    """The newest `seq` of `outbox` or `actions` received before `at`, by bisection: `seq` grows
    with time, and an index on the time would cost every insert for the sake of one nightly task.
    Off by the few rows that were received at the same time and stored in another order."""
    # In one SELECT, SQLite would read the whole index for them.
    low, high = (
        c.execute(select(bound(table.c.seq))).scalar_one() for bound in (func.min, func.max)
    )
    if low is None:
        return 0
    low -= 1
    while low < high:
        middle = (low + high + 1) // 2
        query = select(table.c.received_at).where(table.c.seq <= middle)
        newest = c.execute(query.order_by(table.c.seq.desc()).limit(1)).scalar()
        if newest is None or newest < at:
            low = middle
        else:
            high = middle - 1
    return int(low)
