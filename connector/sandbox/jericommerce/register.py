"""Who is a member and under which address, now and as it was a while ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from connector.sandbox.jericommerce.people import Person


class Register:
    """Members by id and by address, in lower case. Of several with one address the latest to take
    it answers; when that one leaves or changes, the one before answers again."""

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
        """Who answers to this address."""
        holders = self._holders.get(email.lower())
        return self._people[holders[-1]] if holders else None

    def put(self, person: Person) -> None:
        """Add a person, or take note of a change."""
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
    """A register as it was `lag` seconds ago, fed with copies of what changed since."""

    def __init__(self, people: Iterable[Person], lag: float) -> None:
        self.lag = lag
        self._register = Register(replace(person, owner=None) for person in people)
        self._changes: deque[tuple[float, str, Person | None]] = deque()

    def note(self, at: float, id: str, person: Person | None) -> None:
        """From this moment on the person is like this, or is no member."""
        copy = None if person is None else replace(person, owner=None, extra=dict(person.extra))
        self._changes.append((at, id, copy))

    def get(self, email: str, now: float) -> Person | None:
        """Who answered to this address `lag` seconds before `now`, as that person was then."""
        while self._changes and self._changes[0][0] <= now - self.lag:
            _, id, person = self._changes.popleft()
            if person is not None:
                self._register.put(person)
            elif id in self._register:
                self._register.remove(id)
        return self._register.get(email)
