"""Read-only views of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from connector.domain.lanes import Lane, LaneId, LaneState, Millis
from connector.domain.outcomes import Request


@dataclass(frozen=True, slots=True)
class Backlog:
    """A lane at one instant. `oldest` is when its oldest undelivered record was received."""

    lane: Lane
    state: LaneState
    ready: int
    claimed: int
    held: int
    dead: int
    oldest: Millis | None


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One line of a person's timeline: its kind (`event`, `write`, `action`), name and state, why,
    and the request that carried it. `data` is the source's record or the written fields, as
    JSON."""

    at: Millis
    kind: str
    name: str
    state: str
    problem: str | None
    detail: str
    data: bytes | None
    request: Request | None


@dataclass(frozen=True, slots=True)
class PersonState:
    """A person in the store. `wanted` and `confirmed`: see connector.domain.profile_state."""

    id: int
    platform_id: str | None
    email: str | None
    read_state: str | None
    read_at: Millis | None
    gone_at: Millis | None
    write_state: str | None
    problem: str | None
    wanted: Mapping[str, Any]
    confirmed: Mapping[str, Any]
    timeline: Sequence[TimelineEntry]


class Timelines(Protocol):
    """One person at a time, for a person to read."""

    async def find(self, connection: str, identifier: str) -> Sequence[int]:
        """Numbers of the people with this platform id or address."""
        ...

    async def person(self, id: int, limit: int) -> PersonState:
        """One person with the newest `limit` timeline entries, oldest first. Raises KeyError for
        one who is not stored."""
        ...


class Reports(Protocol):
    """Read-only views for status and metrics."""

    async def backlog(self) -> Sequence[Backlog]: ...

    async def people_by_state(self) -> Mapping[tuple[str, str], int]:
        """(connection, `known` | `held` | `gone`) → people: those with an address, those who wait
        for one, and those the platform no longer knows (counted nowhere else)."""
        ...

    async def streams(self) -> Sequence[tuple[str, str, str, Millis]]:
        """(connection, stream, cursor, saved at)."""
        ...

    async def recent_requests(self, limit: int) -> Sequence[tuple[str, str, Request]]:
        """(connection, destination, request), newest first."""
        ...

    async def latencies(self, lane: LaneId, limit: int) -> Sequence[int]:
        """ms from receipt to acceptance of the newest accepted records."""
        ...

    async def write_latencies(self, limit: int) -> Sequence[int]:
        """ms from the receipt of the reason to the acceptance of people's last live writes."""
        ...
