"""Ports of Klaviyo besides its sinks: flows, groups, import jobs, remote state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.ports.platform import MembersPage


@dataclass(frozen=True, slots=True)
class AffectedResources:
    """What a bulk write changes at Klaviyo: list ids that people join, segment ids that they enter,
    metric names that they get; with `fields` the fields of their profiles, and so any segment or
    date that can trigger a flow."""

    lists: frozenset[str] = frozenset()
    segments: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    fields: bool = False


class Flows(Protocol):
    """Klaviyo's automations."""

    async def live(self, affected: AffectedResources) -> Sequence[str]:
        """Names of the live flows that a write of `affected` may start. Reserves its own quota.
        Raises DeliveryError, Blocked with status 403 where the key may not read flows."""
        ...


GroupKind = Literal["list", "segment"]


class TargetGroups(Protocol):
    """Klaviyo's lists and segments, and who has a profile there. Reserves its own quota, as a
    backfill. All raise DeliveryError."""

    async def find(self, kind: GroupKind, name: str) -> Mapping[str, str]:
        """Id → name of those with exactly this name, else of the one with this id."""
        ...

    def all(self, kind: GroupKind) -> AsyncIterator[Mapping[str, str]]:
        """Id → name of every one, page by page."""
        ...

    async def count(self, kind: GroupKind, id: str) -> int | None:
        """How many members it has, as Klaviyo counts them."""
        ...

    async def members(
        self, kind: GroupKind, id: str, cursor: str | None, *, since: Millis | None = None
    ) -> MembersPage:
        """Oldest members first; with `since` only those who joined then or later."""
        ...

    async def is_processing(self, segment: str) -> bool:
        """Whether Klaviyo is still computing the segment's members, so that it lists some of them
        or none."""
        ...

    async def create_list(self, name: str) -> str:
        """The id of a new list. After an AmbiguousError it may exist: look it up first."""
        ...

    async def existing(self, emails: Sequence[str]) -> set[str]:
        """The addresses, in lower case, that have a profile at Klaviyo."""
        ...


class JobResult(Protocol):
    """The result of an import job: `failed` by position in the request; `unmatched` counts failures
    whose record the answer did not name."""

    @property
    def outcome(self) -> Literal["complete", "cancelled", "lost"]: ...
    @property
    def failed(self) -> Mapping[int, tuple[Problem, str]]: ...
    @property
    def unmatched(self) -> int: ...


class Jobs(Protocol):
    """Import jobs that hold our writes. Both raise DeliveryError."""

    async def open(self) -> set[str]: ...

    async def result(self, id: str) -> JobResult | None: ...


@dataclass(frozen=True, slots=True)
class RemoteProfile:
    """A profile as Klaviyo has it: its id there, and its fields by the names of
    connector.domain.profile_state."""

    id: str
    fields: Mapping[str, Any]


class RemoteState(Protocol):
    """Klaviyo read back, at backfill priority. Both raise DeliveryError."""

    async def profiles(self, emails: Sequence[str]) -> Mapping[str, RemoteProfile]:
        """By address, those that exist."""
        ...

    async def has_event(self, profile: str, unique_id: str, at: Millis) -> bool:
        """Whether the profile with this id has the event that happened `at`."""
        ...
