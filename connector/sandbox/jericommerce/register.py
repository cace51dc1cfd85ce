"""The members by id and address, now and as of some time ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from connector.sandbox.jericommerce.people import Person


class Register:
    """Members by id and by address, in lower case. If several have one address, the latest to get
    it is found; when that one leaves or changes, the previous one is found again."""

    def __init__(self, people: Iterable[Person]) -> None:
        self._people: dict[str, Person] = {}
        self._address: dict[str, str] = {}
        self._holders: dict[str, list[str]] = {}
        for person in people:
            self.put(person)

    def __len__(self) -> int:
        return len(self._people)

    def __iter__(self) -> Iterator[Person]:
        return iter(self._people.values())

    def __contains__(self, id: str) -> bool:
        return id in self._people

    def get(self, email: str) -> Person | None:
        """The member with this address, or None."""
        holders = self._holders.get(email.lower())
        return self._people[holders[-1]] if holders else None

    def put(self, person: Person) -> None:
        """Add a person, or update a changed one."""
        before = self._address.get(person.id)
        if before != person.email:
            if before is not None:
                self._release_address(before, person.id)
            self._address[person.id] = person.email
            self._holders.setdefault(person.email, []).append(person.id)
        self._people[person.id] = person

    def remove(self, id: str) -> None:
        """Remove a person."""
        del self._people[id]
        self._release_address(self._address.pop(id), id)

    def _release_address(self, email: str, id: str) -> None:
        holders = self._holders[email]
        holders.remove(id)
        if not holders:
            del self._holders[email]


class DelayedRegister:
    """A register as of `lag` seconds ago, updated with copies of changed members."""

    def __init__(self, people: Iterable[Person], lag: float) -> None:
        self.lag = lag
        self._register = Register(replace(person, owner=None) for person in people)
        self._changes: deque[tuple[float, str, Person | None]] = deque()

    def note(self, at: float, id: str, person: Person | None) -> None:
        """Record a change at time `at`; None: the person is no longer a member."""
        copy = None if person is None else replace(person, owner=None, extra=dict(person.extra))
        self._changes.append((at, id, copy))

    def get(self, email: str, now: float) -> Person | None:
        """The member with this address as of `lag` seconds before `now`, or None."""
        while self._changes and self._changes[0][0] <= now - self.lag:
            _, id, person = self._changes.popleft()
            if person is not None:
                self._register.put(person)
            elif id in self._register:
                self._register.remove(id)
        return self._register.get(email)
