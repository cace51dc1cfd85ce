"""People as states: read at their platform, told to Klaviyo, compared and erased."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.profiles import Observation
from connector.domain.records import Checkpoint
from connector.ports.queues import Queue, ReceiptQueue


@dataclass(frozen=True, slots=True)
class FreshView:
    """A person's newest view, when its read was sent, and whether a write of his profile is in
    flight (then no other write may carry his fields)."""

    view: Mapping[str, Any]
    at: Millis
    write_in_flight: bool


@dataclass(frozen=True, slots=True)
class ListedPerson:
    """A person as a listing shows him: `person` is the platform's id. The observation has no
    number of a person yet; `covers` are the words of its view that the listing could show."""

    person: str | None
    email: str | None
    observation: Observation
    covers: frozenset[str]


class Reads(Queue, Protocol):
    """People to read again at their platform. Settling takes Observed and Gone, and lets the
    events that waited for a person go; what was asked for while a read was under way is read
    once more after it."""

    async def request(
        self,
        lane: LaneId,
        people: Mapping[int, Millis],
        *,
        min_interval: int = 0,
        backfill: bool = False,
        urgent: bool = False,
    ) -> None:
        """Have people read again: person → since when. Not before `gap` ms after the last read;
        `first`: before everybody else."""
        ...

    async def bulk_observe(
        self,
        lane: Lane,
        listed: Sequence[ListedPerson],
        *,
        now: Millis,
        checkpoint: Checkpoint | None = None,
    ) -> Sequence[int]:
        """Observe listed people, each with an id or an address, and keep the cursor, in one
        transaction; their numbers. Reads that are asked for are still made."""
        ...

    async def fresh_views(self, people: Sequence[int]) -> Mapping[int, FreshView]: ...


class Profiles(ReceiptQueue, Protocol):
    """People as states at the destination: promise 5. One write per address is in flight at a
    time, whatever the lane; Pending keeps it in flight until its receipt is closed."""

    async def reset_confirmed(self, lane: LaneId, *, now: Millis) -> int:
        """Forget what was confirmed: the lane belongs to another account from now on."""
        ...

    async def end_shadow(self, lane: LaneId, *, now: Millis) -> int:
        """The lane sends from now on: whoever was passed over is told, at backfill priority; how
        many they are."""
        ...

    async def count_outdated(self, lane: LaneId, mapping: str) -> int:
        """How many people were rendered with another mapping version."""
        ...


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """Whom a name stands for: `people` of the connection, every address of theirs, and how many
    rows were erased."""

    people: int
    emails: Sequence[str] = ()
    rows: int = 0


class Erasure(Protocol):
    """Forgetting people for good. `who` is an address or the platform's id."""

    async def find(self, connection: str, identifier: str) -> ErasureResult:
        """Whom it would be about. Nothing is erased."""
        ...

    async def forget(self, connection: str, identifier: str, *, now: Millis) -> ErasureResult:
        """Erase whoever has this name, and whoever shares his address, wherever he stands; leave
        what stops him from being made again."""
        ...

    async def remove_tombstone(self, connection: str, identifier: str) -> bool:
        """He may come back. False where he was not forgotten by this name."""
        ...


@dataclass(frozen=True, slots=True)
class SyncedPerson:
    """A person of whom nothing waits to be told: the fields that were confirmed as they are now
    (None: unset), by the names of connector.domain.profile_state."""

    person: int
    email: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AcceptedEvent:
    """An event that was accepted."""

    seq: int
    email: str
    unique_id: str
    at: Millis


class Ledger(Protocol):
    """What a far end has confirmed, for whoever reads it back."""

    async def people(self, lane: LaneId, *, after: int, limit: int) -> Sequence[SyncedPerson]:
        """In the order of their numbers, from behind `after` on."""
        ...

    async def sample_people(self, lane: LaneId, count: int) -> Sequence[SyncedPerson]:
        """By chance."""
        ...

    async def events(self, lane: LaneId, *, before: Millis, limit: int) -> Sequence[AcceptedEvent]:
        """The newest that were accepted by then."""
        ...

    async def resend_people(self, people: Sequence[int], *, now: Millis) -> int:
        """All that is wanted of them is told again, at backfill priority."""
        ...

    async def resend_events(self, events: Sequence[int], *, now: Millis) -> int:
        """Put accepted events back in line with the same unique ids; how many still had their
        body."""
        ...
