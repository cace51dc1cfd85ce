"""People as a listing or a poll shows them, in SQL: observed without having been asked for, in one
transaction with the cursor that stands for them (promise 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import Connection, func, select
from sqlalchemy.dialects import postgresql, sqlite

from connector.domain.lanes import (
    Lane,
    Millis,
)
from connector.domain.records import (
    State,
)
from connector.ports import Sighting
from connector.store.people import people
from connector.store.queues import profiles, queue
from connector.store.tables import reads


def take_in(
    c: Connection, lane: Lane, seen: Sequence[Sighting], *, now: Millis, reconfirm_after: int
) -> list[int]:
    """The people's numbers, in order; None of them is asked for a read, and a read that is
    already asked for is still made."""
    directory = people.Directory(c, lane.connection, seen, people.Seen())
    found = zip(directory.resolve(seen, now).people, seen, strict=True)
    known = [(who, sighting) for who, sighting in found if who is not None]
    # Of one who is listed twice the later line counts.
    by_person = {who.id: sighting for who, sighting in known}
    _keep_views(c, lane, by_person)
    observed = [replace(s.observation, person=id) for id, s in by_person.items()]
    profiles.observe(c, observed, now=now, reconfirm_after=reconfirm_after)
    return [who.id for who, _ in known]


def _keep_views(c: Connection, lane: Lane, seen: dict[int, Sighting]) -> None:
    before: dict[int, Any] = {}
    for part in queue.chunks(list(seen)):
        query = select(reads.c.person, reads.c.view, reads.c.view_at).where(
            reads.c.person.in_(part), reads.c.view.is_not(None)
        )
        before |= {row.person: row for row in c.execute(query)}
    rows = []
    for person, sighting in seen.items():
        at, old = sighting.observation.at, before.get(person)
        if old is None or old.view_at <= at:
            view = _merged(orjson.loads(old.view) if old else {}, sighting)
            rows.append({"person": person, "view": orjson.dumps(view), "view_at": at})
    if not rows:
        return
    made: Any = postgresql if c.dialect.name == "postgresql" else sqlite
    statement = made.insert(reads)
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
                "asked_at": row["view_at"],
                "sent_at": row["view_at"],
            }
            for row in rows
        ],
    )


def _merged(old: dict[str, Any], sighting: Sighting) -> dict[str, Any]:
    """The newer view, and of the older one what this sight could not have shown."""
    covered = {path.partition(".")[0] for path in sighting.covers}
    kept = {word: value for word, value in old.items() if word not in covered}
    return {**kept, **sighting.observation.view}
