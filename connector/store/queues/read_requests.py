"""Requests of reads, stored in the transaction of what causes them."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Connection, case, func

from connector.domain.lanes import LaneId, Millis
from connector.domain.records import State
from connector.store.prepared import Prepared, param
from connector.store.statements import Upsert, upsert
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
    _ADD.run_all(
        c,
        [
            {
                "person": person,
                "lane": lane,
                "at": at,
                "priority": priority,
                "refetch": int(person in refetch),
                "backfill": backfill,
                "min_interval": min_interval,
            }
            for person, at in people.items()
        ],
    )


def _add(dialect: str) -> Upsert:
    """A read that waits keeps its turn; one in flight is followed by one more."""
    at = param("at")
    names = ("person", "lane", "priority", "refetch", "backfill")
    values = {name: param(name) for name in names}
    statement = upsert(dialect, reads).values(
        values | {"state": State.READY, "due": at, "requested_at": at}
    )
    new = statement.excluded
    in_flight = reads.c.state == State.CLAIMED
    waits = (reads.c.state == State.READY) | in_flight
    earliest = reads.c.sent_at + param("min_interval", type_=BigInteger)
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


_ADD = Prepared(_add)
