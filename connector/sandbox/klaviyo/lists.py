"""Klaviyo's lists: names and members. Membership is not consent; consent is not emulated."""

from __future__ import annotations

from dataclasses import dataclass, field

from connector.sandbox.klaviyo.state import Profile


@dataclass(slots=True)
class MemberList:
    """A list. `members`: profile number → time of joining, in the order of joining."""

    number: int
    name: str
    opt_in: str
    created: float
    updated: float
    members: dict[int, float] = field(default_factory=dict)
    _keys: list[tuple[int, int]] | None = None

    @property
    def keys(self) -> list[tuple[int, int]]:
        """(time of joining in whole microseconds, profile number), oldest first. Whole numbers, so
        that a cursor is exact."""
        if self._keys is None:
            self._keys = sorted((round(at * 1e6), number) for number, at in self.members.items())
        return self._keys

    @property
    def id(self) -> str:
        """An id in Klaviyo's form: 6 characters."""
        return f"L{self.number:05d}"

    def join(self, profile: Profile, at: float) -> None:
        """Add a member; an existing member is unchanged."""
        if profile.number not in self.members:
            self.members[profile.number] = at
            self._keys = None

    def leave(self, profile: Profile) -> None:
        """Remove a member, if it is one."""
        if self.members.pop(profile.number, None) is not None:
            self._keys = None


class Lists:
    """All lists."""

    def __init__(self) -> None:
        self._by_id: dict[str, MemberList] = {}
        self._created = 0

    @property
    def all(self) -> list[MemberList]:
        return list(self._by_id.values())

    def create(self, name: str, opt_in: str, at: float) -> MemberList:
        """A new, empty list."""
        made = MemberList(self._created, name, opt_in, at, at)
        self._created += 1
        self._by_id[made.id] = made
        return made

    def get(self, id: str) -> MemberList | None:
        """The list of this id."""
        return self._by_id.get(id)

    def delete(self, id: str) -> None:
        """Delete a list. Its id is not used again."""
        del self._by_id[id]

    def merged(self, source: Profile, into: Profile) -> None:
        """The destination of a merge inherits the lists of the source."""
        for members in self.all:
            at = members.members.get(source.number)
            if at is not None:
                members.leave(source)
                members.join(into, at)
