"""Keeps people from being merged by another transaction while this one stores rows about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from sqlalchemy import Connection, select

from connector.domain.errors import Problem, StoreError
from connector.store.people.identifiers import PersonRow
from connector.store.statements import chunks
from connector.store.tables import people

T = TypeVar("T")
_ATTEMPTS = 5


def locked(
    c: Connection, find: Callable[[], T], people_of: Callable[[T], Iterable[PersonRow]]
) -> T:
    """What `find` finds, once all of its people are locked until the end of the transaction. Those
    who were merged or erased meanwhile are found again, as who they are now. Nothing is locked on
    SQLite, which has one writer. Raises StoreError where people change each time.
    """
    for _ in range(_ATTEMPTS):
        found = find()
        if _lock(c, {person.id for person in people_of(found)}):
            return found
    raise StoreError(Problem.STORE_UNAVAILABLE, "other transactions change the same people")


def locked_alone(c: Connection, find: Callable[[], T], ids_of: Callable[[T], set[int]]) -> T:
    """The same, once no other transaction stores rows about these people: those that do have ended,
    and what they stored is seen."""
    before: set[int] = set()
    for _ in range(_ATTEMPTS):
        found = find()
        ids = ids_of(found)
        if ids <= before or c.dialect.name != "postgresql":
            return found
        for part in chunks(sorted(ids)):
            query = select(people.c.id).where(people.c.id.in_(part)).order_by(people.c.id)
            c.execute(query.with_for_update())
        before |= ids
    raise StoreError(Problem.STORE_UNAVAILABLE, "other transactions change the same people")


def _lock(c: Connection, ids: set[int]) -> bool:
    """Whether all of them still exist."""
    if c.dialect.name != "postgresql":
        return True
    existing = 0
    for part in chunks(sorted(ids)):
        query = select(people.c.id).where(people.c.id.in_(part)).order_by(people.c.id)
        locked = query.with_for_update(read=True, key_share=True)
        existing += len(c.execute(locked).scalars().all())
    return existing == len(ids)
