"""Addresses of people, and what waits for them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Text, select, update

from connector.domain.lanes import Millis
from connector.domain.profiles import Observation
from connector.domain.records import State
from connector.store.people import identifiers
from connector.store.people.identifiers import PersonRow
from connector.store.people.tombstones import Identified
from connector.store.prepared import Prepared, param
from connector.store.queues import membership_events
from connector.store.statements import chunks
from connector.store.tables import in_state, outbox, people


def find(c: Connection, connection: str, keys: Sequence[Identified]) -> list[PersonRow | None]:
    """The person of each key, None where there is none."""
    ids = {key.person for key in keys if key.person}
    emails = {key.email for key in keys if key.email}
    by_id, by_email = identifiers.lookup(c, connection, ids, emails)
    return [
        (by_id.get(key.person) if key.person else None) or by_email.get(key.email or "")
        for key in keys
    ]


def record_addresses(c: Connection, observed: Sequence[Observation], now: Millis) -> None:
    """Save the addresses that reads by id found, unless newer information gave another.

    Records that wait for an address get it and become ready. Those of a withheld person lose
    theirs and become ready too: their lane skips and counts them.
    """
    updates = [
        {"row": o.person, "address": None if o.withheld else o.email, "at": o.at, "now": now}
        for o in observed
        if o.email or o.withheld
    ]
    if not updates:
        return
    _SET_ADDRESS.run_all(c, updates)
    _identify(c, [o for o in observed if o.email and not o.withheld])
    _RELEASE_EVENTS.run_all(c, updates)
    membership_events.apply_deferred(
        c, {o.person: o.email for o in observed if o.email and not o.withheld}
    )


def _identify(c: Connection, observed: Sequence[Observation]) -> None:
    """The addresses that people have now identify them."""
    rows = identifiers.rows_by_id(c, {o.person for o in observed})
    by_connection: dict[str, list[tuple[str, int]]] = {}
    for row in rows.values():
        if row.email:
            by_connection.setdefault(row.connection, []).append((row.email, row.id))
    for connection, addresses in by_connection.items():
        identifiers.add(c, connection, "email", addresses)


_ADDRESS = param("address", type_=Text)
_SET_ADDRESS = Prepared(
    update(people)
    .where(
        people.c.id == param("row"),
        people.c.email.is_distinct_from(_ADDRESS),
        people.c.email.is_(None) | (people.c.seen_at <= param("at")),
    )
    .values(email=_ADDRESS, seen_at=param("at"))
)
_CURRENT_ADDRESS = select(people.c.email).where(people.c.id == param("row")).scalar_subquery()
_HELD_WITHOUT_ADDRESS = in_state(State.HELD) & outbox.c.email.is_(None)
_ADDRESS_CHANGED = (
    in_state(State.READY)
    & (outbox.c.attempts == 0)
    & (outbox.c.received_at <= param("at"))
    & outbox.c.email.is_distinct_from(_CURRENT_ADDRESS)
)
_RELEASE_EVENTS = Prepared(
    update(outbox)
    .where(outbox.c.person == param("row"), _HELD_WITHOUT_ADDRESS | _ADDRESS_CHANGED)
    .values(state=State.READY, email=_CURRENT_ADDRESS, problem=None, detail="", due=param("now"))
)


def mark_gone(c: Connection, ids: Sequence[int], at: Millis) -> None:
    """The platform no longer knows these people."""
    for part in chunks(ids):
        c.execute(update(people).where(people.c.id.in_(part)).values(gone_at=at))


def mark_known(c: Connection, ids: Sequence[int]) -> None:
    """The platform knows these people, also those that it did not know before."""
    _MARK_KNOWN.run(c, ids=ids)


_MARK_KNOWN = Prepared(
    update(people)
    .where(people.c.id.in_(param("ids", expanding=True)), people.c.gone_at.is_not(None))
    .values(gone_at=None),
    many="ids",
)
