"""When removing one field counts as a mass unset (guarantee 9). Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from connector.domain.approvals import DEFAULT_SHARE
from connector.domain.lanes import Millis

FLOOR = 50
"""People who may lose a field in one period without approval."""
_PERIOD_MS = 86_400_000
_ENOUGH_WRITES = 500
"""A period ends early after so many writes of which few unset the field, so that what was normal
before does not hide what is not."""


@dataclass(frozen=True, slots=True)
class UnsetCount:
    """The people who lost a field in the period that began at `since`, and the profile writes of
    the lane in that period. `allowed` of them are covered by an approval. `held`: further ones
    wait."""

    field: str
    since: Millis
    people: int = 0
    writes: int = 0
    allowed: int = 0
    held: bool = False

    def add(self, people: int, writes: int, now: Millis) -> UnsetCount:
        """So many more people, among so many more writes."""
        count = self if self.held else self._current(now)
        count = replace(count, people=count.people + people, writes=count.writes + writes)
        return replace(count, held=count.held or count._is_too_many)

    def _current(self, now: Millis) -> UnsetCount:
        if now - self.since >= _PERIOD_MS:
            return UnsetCount(self.field, now)
        if self.writes >= _ENOUGH_WRITES and self.people <= DEFAULT_SHARE * self.writes:
            left = max(0, self.allowed - self.people)
            return UnsetCount(self.field, now, allowed=left)
        return self

    @property
    def _is_too_many(self) -> bool:
        """More people than the floor and than the share of the writes, and than are allowed."""
        return self.people > max(FLOOR, DEFAULT_SHARE * self.writes, self.allowed)
