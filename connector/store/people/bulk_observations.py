"""Observations of listed or polled people in SQL, in one transaction with the cursor of the page
(guarantee 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import Connection, func, select

from connector.domain.lanes import Lane, Millis
from connector.domain.records import State
from connector.ports import ListedPerson
from connector.store.people import people
from connector.store.people.person_cache import PersonCache
from connector.store.people.resolution import PersonResolver
from connector.store.queues import profile_observations
from connector.store.queues.outbox_append import release_held
from connector.store.statements import chunks, upsert
from connector.store.tables import reads

MOST_OBSERVED = 50
"""People that one transaction observes."""


def observe_listed(
    c: Connection, lane: Lane, listed: Sequence[ListedPerson], *, now: Millis
) -> list[int]:
    """Observe the people; returns their numbers in order. Requests no read, and leaves those that
    were requested. Of a person who is listed twice the last item counts."""
    resolver = PersonResolver(c, lane.connection, listed, PersonCache())
    resolved = resolver.resolve(listed, now)
    release_held(c, resolved.new_addresses, now)
    known = [
        (person.id, item)
        for person, item in zip(resolved.people, listed, strict=True)
        if person is not None
    ]
    by_person = dict(known)
    _save_views(c, lane, by_person)
    observations = [replace(item.observation, person=id) for id, item in by_person.items()]
    profile_observations.observe(c, observations, now=now)
    return [id for id, _ in known]


def _save_views(c: Connection, lane: Lane, listed: Mapping[int, ListedPerson]) -> None:
    before = _saved_views(c, list(listed))
    rows = []
    for person, item in listed.items():
        at = item.observation.at
        view, view_at = before.get(person, ({}, at))
        if view_at <= at:
            merged = orjson.dumps(_merge_view(view, item))
            rows.append(
                {
                    "person": person,
                    "lane": lane.id,
                    "state": State.ACCEPTED,
                    "due": at,
                    "requested_at": at,
                    "sent_at": at,
                    "view": merged,
                    "view_at": at,
                }
            )
    if not rows:
        return
    statement = upsert(c.dialect.name, reads)
    new = statement.excluded
    c.execute(
        statement.on_conflict_do_update(
            index_elements=["person"],
            set_={"view": new.view, "view_at": new.view_at},
            where=func.coalesce(reads.c.view_at, 0) <= new.view_at,
        ),
        rows,
    )
    people.mark_known(c, list(listed))


def _saved_views(
    c: Connection, people: Sequence[int]
) -> dict[int, tuple[Mapping[str, Any], Millis]]:
    """person → (view, when its read was sent)."""
    found: dict[int, tuple[Mapping[str, Any], Millis]] = {}
    for part in chunks(people):
        query = select(reads.c.person, reads.c.view, reads.c.view_at).where(
            reads.c.person.in_(part), reads.c.view.is_not(None)
        )
        for person, view, at in c.execute(query):
            found[person] = (orjson.loads(view), Millis(at))
    return found


def _merge_view(old: Mapping[str, Any], item: ListedPerson) -> dict[str, Any]:
    """The new view, and those fields of the old one that the listing cannot show."""
    covered = {path.partition(".")[0] for path in item.covers}
    kept = {field: value for field, value in old.items() if field not in covered}
    return {**kept, **item.observation.view}
