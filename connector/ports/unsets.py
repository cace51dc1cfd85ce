"""Port of fields that are removed from many people at once (guarantee 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from connector.domain.lanes import LaneId, Millis


class UnsetFields(Protocol):
    """How many people lose each field, and the fields whose removal waits for approval. A claim of
    profiles leaves those out; a person with nothing else to write is held (MASS_UNSET)."""

    async def note(
        self,
        lane: LaneId,
        unsets: Mapping[str, int],
        *,
        writes: int,
        earlier_writes: int,
        now: Millis,
    ) -> Sequence[str]:
        """Count the people of a claim of so many `writes` who lose each field. `earlier_writes`
        were made since the last call. Returns the fields whose removal waits from now on."""
        ...

    async def held(self, lane: LaneId) -> Mapping[str, int]:
        """The fields whose removal waits → the people who wait for it."""
        ...

    async def release(self, lane: LaneId, field: str, *, allowed: int, now: Millis) -> int:
        """Remove the field from now on, from `allowed` people at least before it is held again.
        Returns how many people are ready again."""
        ...
