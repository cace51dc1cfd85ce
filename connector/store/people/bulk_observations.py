"""People as a listing or a poll shows them, in SQL: observed without having been asked for, in one
transaction with the cursor that stands for them (promise 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import Connection, func, select
from sqlalchemy.dialects import postgresql, sqlite

from connector.domain.lanes import Lane, Millis
from connector.domain.records import State
from connector.ports import ListedPerson
from connector.store.people import people
from connector.store.queues import profiles, queue
from connector.store.tables import reads


def take_in(c: Connection, lane: Lane, seen: Sequence[ListedPerson], *, now: Millis) -> list[int]:
    """The people's numbers, in order; None of them is asked for a read, and a read that is
    already asked for is still made."""
    resolver = people.PersonResolver(c, lane.connection, seen, people.PersonCache())
    found = zip(resolver.resolve(seen, now).people, seen, strict=True)
    known = [(who, listed) for who, listed in found if who is not None]
    # Of one who is listed twice the later line counts.
    by_person = {who.id: listed for who, listed in known}
    _save_views(c, lane, by_person)
    observed = [replace(s.observation, person=id) for id, s in by_person.items()]
    profiles.observe(c, observed, now=now)
    return [who.id for who, _ in known]


def _save_views(c: Connection, lane: Lane, seen: dict[int, ListedPerson]) -> None:
    before: dict[int, Any] = {}
    for part in queue.chunks(list(seen)):
        query = select(reads.c.person, reads.c.view, reads.c.view_at).where(
            reads.c.person.in_(part), reads.c.view.is_not(None)
        )
        before |= {row.person: row for row in c.execute(query)}
    rows = []
    for person, listed in seen.items():
        at, old = listed.observation.at, before.get(person)
        if old is None or old.view_at <= at:
            view = _merge_view(orjson.loads(old.view) if old else {}, listed)
            rows.append({"person": person, "view": orjson.dumps(view), "view_at": at})
    if not rows:
        return
    sql_dialect: Any = postgresql if c.dialect.name == "postgresql" else sqlite
    statement = sql_dialect.insert(reads)
    new = statement.excluded
    c.execute(
        statement.on_conflict_do_update(
            index_elements=["person"],
            set_={"view": new.view, "view_at": new.view_at, "gone_at": None},
            where=func.coalesce(reads.c.view_at, 0) <= new.view_at,
        ),
        [
            row
            | {
                "lane": lane.id,
                "state": State.ACCEPTED,
                "due": row["view_at"],
                "requested_at": row["view_at"],
                "sent_at": row["view_at"],
            }
            for row in rows
        ],
    )


def _merge_view(old: dict[str, Any], listed: ListedPerson) -> dict[str, Any]:
    """The newer view, and of the older one what this sight could not have shown."""
    covered = {path.partition(".")[0] for path in listed.covers}
    kept = {word: value for word, value in old.items() if word not in covered}
    return {**kept, **listed.observation.view}
