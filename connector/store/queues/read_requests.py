"""Requests of reads, stored in the transaction of what causes them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from sqlalchemy import Connection, Insert, case, func

from connector.domain.lanes import LaneId, Millis
from connector.domain.records import State
from connector.store.statements import upsert
from connector.store.tables import reads


def add(
    c: Connection,
    lane: LaneId,
    people: Mapping[int, Millis],
    *,
    min_interval: int = 0,
    priority: int = 0,
    refetch: frozenset[int] = frozenset(),
    backfill: int | None = None,
) -> None:
    """Request reads: person → when the reason was received. A read begins `min_interval` ms after
    the last one of the person at the earliest. `refetch`: the people whose read also fetches what
    is cached. `backfill`: the number of the run that requests them."""
    if people:
        c.execute(
            _statement(c.dialect.name, min_interval),
            [
                {
                    "person": person,
                    "lane": lane,
                    "state": State.READY,
                    "due": at,
                    "requested_at": at,
                    "priority": priority,
                    "refetch": int(person in refetch),
                    "backfill": backfill,
                }
                for person, at in people.items()
            ],
        )


@functools.cache
def _statement(dialect: str, min_interval: int) -> Insert:
    """A read that waits keeps its turn; one in flight is followed by one more.

    Built once: building takes longer than running it, and every webhook's commit runs it.
    """
    statement = upsert(dialect, reads)
    new = statement.excluded
    in_flight = reads.c.state == State.CLAIMED
    waits = (reads.c.state == State.READY) | in_flight
    earliest = reads.c.sent_at + min_interval
    # Received before the read was sent, and stored after: it may have brought another address.
    missed = (
        in_flight
        & (new.requested_at <= reads.c.sent_at)
        & (reads.c.requested_at <= reads.c.sent_at)
    )
    return statement.on_conflict_do_update(
        index_elements=["person"],
        set_={
            "lane": new.lane,
            "refetch": case((new.refetch > reads.c.refetch, new.refetch), else_=reads.c.refetch),
            "backfill": func.coalesce(new.backfill, reads.c.backfill),
            "requested_at": case(
                (missed, reads.c.sent_at + 1),
                (reads.c.requested_at > new.requested_at, reads.c.requested_at),
                else_=new.requested_at,
            ),
            "state": case((in_flight, int(State.CLAIMED)), else_=int(State.READY)),
            "due": case(
                (reads.c.state == State.READY, reads.c.due),
                (earliest > new.due, earliest),
                else_=new.due,
            ),
            "priority": case(
                (waits & (reads.c.priority < new.priority), reads.c.priority),
                else_=new.priority,
            ),
            "attempts": case((waits, reads.c.attempts), else_=0),
            "failing_since": case((waits, reads.c.failing_since), else_=None),
        },
    )
