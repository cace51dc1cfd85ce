"""The people of the last records, so that a repeated one costs no query."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from connector.store.people.identifiers import PersonRow


class PersonCache:
    """A hit means that a record has the same id and address as the last one of its person, so
    that the row need not be read or written. Only the newest id and address of a person are
    kept. Its people may be gone by now: merged into others, or erased."""

    def __init__(self, size: int = 50_000) -> None:
        self._size = size
        self._ids: OrderedDict[tuple[str, str | None, str | None], PersonRow] = OrderedDict()
        self._newest: dict[int, PersonRow] = {}

    def find(self, connection: str, platform_id: str | None, email: str | None) -> PersonRow | None:
        return self._ids.get((connection, platform_id, email)) if email else None

    def remember(self, people: Sequence[PersonRow]) -> None:
        for person in people:
            self._forget(person.id)
            displaced = self._ids.pop(person[1:], None)
            if displaced:
                self._newest.pop(displaced.id, None)
            self._ids[person[1:]] = self._newest[person.id] = person
        while len(self._ids) > self._size:
            _, oldest = self._ids.popitem(last=False)
            self._newest.pop(oldest.id, None)

    def _forget(self, person: int) -> None:
        older = self._newest.pop(person, None)
        if older and self._ids.get(older[1:]) == older:
            del self._ids[older[1:]]
