"""Ports of people: reads at their platform, profiles at Klaviyo, reconciliation and erasure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.profiles import Observation
from connector.domain.records import Checkpoint
from connector.ports.queues import Queue


@dataclass(frozen=True, slots=True)
class FreshView:
    """A person's newest view and when its read was sent. With `write_in_flight` no other write may
    carry the person's fields."""

    view: Mapping[str, Any]
    at: Millis
    write_in_flight: bool


@dataclass(frozen=True, slots=True)
class ListedPerson:
    """A person in a page of a platform's listing. `person` is the platform's id; the observation's
    own `person` is not known yet. `covers` are the view fields that the listing can show, `aliases`
    further ids of the platform for the same person."""

    person: str | None
    email: str | None
    observation: Observation
    covers: frozenset[str]
    aliases: tuple[str, ...] = ()


class Reads(Queue, Protocol):
    """People to read at their platform. `settle` takes Observed and Gone, and releases the events
    that waited for the person. Requests during a read cause one more read after it."""

    async def request(
        self,
        lane: LaneId,
        people: Mapping[int, Millis],
        *,
        min_interval: int = 0,
        backfill: bool = False,
        urgent: bool = False,
    ) -> None:
        """Request reads: person → when the reason was received. A read begins `min_interval` ms
        after the last one of the person at the earliest; with `urgent` before all others."""
        ...

    async def bulk_observe(
        self,
        lane: Lane,
        listed: Sequence[ListedPerson],
        *,
        now: Millis,
        checkpoint: Checkpoint | None = None,
    ) -> Sequence[int]:
        """Observe listed people, each with an id or an address, and save the cursor, in one
        transaction; returns their numbers. Reads that were requested are still made."""
        ...

    async def fresh_views(self, people: Sequence[int]) -> Mapping[int, FreshView]:
        """The people who were read at least once."""
        ...


class Profiles(Queue, Protocol):
    """Profiles at the destination (guarantee 5). One write per address is in flight at a time, of
    all lanes; a Pending write stays in flight until its receipt is closed."""

    async def reset_confirmed(self, lane: LaneId, *, now: Millis) -> int:
        """Delete what is confirmed, because the lane has another account from now on; returns the
        number of profiles."""
        ...

    async def end_shadow(self, lane: LaneId, *, now: Millis) -> int:
        """Queue the profiles that shadow mode skipped, at backfill priority; returns how many."""
        ...

    async def count_outdated(self, lane: LaneId, mapping: str) -> int:
        """Number of people who were rendered with another mapping version."""
        ...


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """The number of people that an identifier matched, all their addresses, and the number of
    rows that were erased."""

    people: int
    emails: Sequence[str] = ()
    rows: int = 0


class Erasure(Protocol):
    """Erasure of people. `identifier` is an e-mail address or a platform id."""

    async def find(self, connection: str, identifier: str) -> ErasureResult:
        """The people that `forget` would erase."""
        ...

    async def forget(self, connection: str, identifier: str, *, now: Millis) -> ErasureResult:
        """Erase every row of the people with this identifier and of those who share an address
        with them, and add tombstones, so that they are not stored again. On SQLite nothing of them
        is left in the file or its log. Raises StoreError where that cannot be done yet: the people
        are erased then, and the call can be repeated."""
        ...

    async def erased_at(self, connection: str, identifier: str) -> Millis | None:
        """When the person was erased; None without a tombstone."""
        ...

    async def remove_tombstone(self, connection: str, identifier: str) -> bool:
        """Allow the person to be stored again. False where there is no such tombstone."""
        ...


@dataclass(frozen=True, slots=True)
class SyncedPerson:
    """A person with nothing to send: the fields that are confirmed as wanted (None: unset), named
    as in connector.domain.profile_state."""

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


class AddressScopes(Protocol):
    """Addresses are compared within a Klaviyo account, across the connections that write to it."""

    async def move(self, connection: str, account: str) -> int:
        """Scope the addresses of this connection's profiles and list members by this account; how
        many there were. Those that are in flight keep theirs. In batches: call it again after an
        error."""
        ...


class Ledger(Protocol):
    """What Klaviyo has confirmed, to be compared with what it holds."""

    async def people(self, lane: LaneId, *, after: int, limit: int) -> Sequence[SyncedPerson]:
        """In the order of their numbers, beginning after `after`."""
        ...

    async def sample_people(self, lane: LaneId, count: int) -> Sequence[SyncedPerson]:
        """A random sample."""
        ...

    async def events(self, lane: LaneId, *, before: Millis, limit: int) -> Sequence[AcceptedEvent]:
        """The newest events of those accepted at `before` or earlier."""
        ...

    async def resend_people(self, people: Sequence[int], *, now: Millis) -> int:
        """Queue all wanted fields of these people, at backfill priority."""
        ...

    async def resend_events(self, events: Sequence[int], *, now: Millis) -> int:
        """Queue accepted events with the same unique ids; returns how many still had their body.
        The others cannot be sent again."""
        ...
