"""Ports that a lane delivers through: renderer, sink, quota, lease."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from connector.domain.attention import Check
from connector.domain.lanes import DeliveryMode, QuotaUsage
from connector.domain.messages import Fault, Skip
from connector.domain.outcomes import Delivery
from connector.domain.records import Entry
from connector.ports.queues import Fence

M = TypeVar("M")


M_co = TypeVar("M_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Outgoing(Generic[M]):
    """An entry and its rendered message."""

    entry: Entry
    message: M


@dataclass(frozen=True, slots=True)
class BatchMode:
    """How to deliver: at most `size` entries per request and `parallel` requests at a time. For
    entries of the delivery modes `creates_jobs` a request creates a job, which ends later."""

    endpoint: str
    size: int
    parallel: int
    creates_jobs: frozenset[DeliveryMode] = frozenset()


@dataclass(frozen=True, slots=True)
class Grant:
    """Quota for `count` requests, granted `at` (monotonic). When it is 0, ask again after `wait`
    seconds."""

    count: int
    wait: float
    usage: Sequence[QuotaUsage] = ()
    at: float = 0.0


class Quota(Protocol):
    """Permits for requests (guarantee 9). A self-inflicted 429 is a defect."""

    def reserve(self, endpoint: str, want: int, *, backfill: bool = False) -> Grant: ...

    def release(self, endpoint: str, grant: Grant, unused: int) -> None:
        """Give back a part of a grant that was not used."""
        ...


class Sink(Protocol[M]):
    """Delivers rendered entries. Sending twice must be harmless in `single` mode."""

    @property
    def single(self) -> BatchMode: ...
    @property
    def bulk(self) -> BatchMode | None: ...
    @property
    def quota(self) -> Quota: ...

    def deliver(
        self, batch: Sequence[Outgoing[M]], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        """Send the batch and yield outcomes as they become known: exactly one for every entry.
        `permits` requests of quota are reserved; the sink reserves more as needed. Raises nothing
        that a remote API can cause."""
        ...

    def resumed(self) -> None:
        """A person has started deliveries again, whatever stopped them."""
        ...

    def preview(self, out: Outgoing[M]) -> tuple[str, bytes]:
        """The route and body that this entry alone would be sent with. Sends nothing."""
        ...

    async def check(self) -> Sequence[Check]:
        """Whether it can be reached and the credential is valid; else a Check of level fault."""
        ...


class Renderer(Protocol[M_co]):
    """Makes the message of an entry. `version` is the mapping's, stored with the claim."""

    @property
    def version(self) -> str: ...

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Fetch the older mapping versions that these entries must be rendered with."""
        ...

    def render(self, entry: Entry) -> M_co | Skip | Fault: ...


class Lease(Protocol):
    """The right to deliver. `valid` is called right before every send. `resource` is what other
    processes may not work on meanwhile. `usable`: it was taken, and is not known to be lost; it may
    not have been renewed in time."""

    @property
    def resource(self) -> str: ...

    @property
    def fence(self) -> Fence: ...

    @property
    def usable(self) -> bool: ...

    def valid(self) -> bool: ...
