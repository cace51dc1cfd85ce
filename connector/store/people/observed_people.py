"""Who the people of reads are: the answer to a read may name ids and an address that the store knew
of another person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from connector.domain.lanes import Millis
from connector.domain.profiles import Observation
from connector.ports import PersonKey
from connector.store.people import identifiers
from connector.store.people.person_cache import PersonCache
from connector.store.people.resolution import PersonResolver
from connector.store.queues.outbox_append import release_held


def identify(
    c: Connection, connection: str, observations: Sequence[Observation], now: Millis
) -> list[Observation]:
    """Save the identifiers that reads found, and merge people who turn out to be one. Returns the
    observations of the people who remain, without the address of one who turns out to be erased.
    Addresses are saved when the observations are."""
    informative = [o for o in observations if o.aliases or (o.email and not o.withheld)]
    rows = identifiers.rows_by_id(c, {o.person for o in informative})
    named = [(o, rows[o.person]) for o in informative if o.person in rows]
    keys = [PersonKey(row.platform_id, o.email or row.email, aliases=o.aliases) for o, row in named]
    if not keys:
        return list(observations)
    resolver = PersonResolver(c, connection, keys, PersonCache())
    found = resolver.resolve(keys, now, update_addresses=False)
    release_held(c, found.new_addresses, now)
    erased = {named[position][0].person for position in found.erased}
    survivors = {
        o.person: person.id
        for (o, _), person in zip(named, found.people, strict=True)
        if person is not None
    }
    return [
        replace(
            o,
            person=resolver.survivor_id(survivors.get(o.person, o.person)),
            email=None if o.person in erased else o.email,
        )
        for o in observations
    ]
