"""The store whole: each port is small and one intent wide, every method is one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from connector.domain.lanes import Kind, Lane, LaneId, LaneState, Millis, QuotaUsage
from connector.domain.records import Appended, Checkpoint, Page, State
from connector.ports.actions import ActionDecisions, ActionIntake, ActionQueue, ActionViews
from connector.ports.admin import Approvals, CommandQueue, DeadLetters, Notifications
from connector.ports.backfills import BackfillProgress, Backfills, DryRuns, PeopleIndex
from connector.ports.memberships import (
    GroupScans,
    MemberGroups,
    MembershipQueue,
    SegmentJoins,
    TargetMembers,
)
from connector.ports.people import Erasure, Ledger, Profiles, Reads
from connector.ports.queues import Fence, Queue
from connector.ports.reports import Reports


class Outbox(Queue, Protocol):
    """Records between receipt and receipt: promises 1, 2 and 10."""

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        """Store all pages with their checkpoints in one transaction; one answer per page.

        A record known by its key is a duplicate and changes nothing. One without an address is
        completed from its person where that person has been seen, else held; a page that brings a
        person's address releases what was held for that person.
        """
        ...

    async def prune_timeline(self, *, before: Millis, limit: int) -> int:
        """Forget what only timelines need: requests, the journal, orders that are done. At most
        `limit` of each; returns how many in all."""
        ...

    async def clear_bodies(self, *, before: Millis, after: int, limit: int) -> int | None:
        """Forget the bodies of settled records received before then, looking at `limit` records
        after number `after`; returns where to go on, None at the end. Their ids stay known."""
        ...

    async def prune(self, *, now: Millis, keep: Mapping[State, int], limit: int) -> int:
        """Forget settled records older than `keep[state]` ms, at most `limit`; returns how many.
        What is ready, claimed or not named in `keep` stays."""
        ...


class Lanes(Protocol):
    """The roads out and whether they run."""

    async def ensure(self, connection: str, destination: str, kind: Kind) -> Lane: ...

    async def all(self) -> Sequence[tuple[Lane, LaneState]]: ...

    async def set_state(self, lane: LaneId, state: LaneState) -> None: ...


class Checkpoints(Protocol):
    """Cursors of streams. They are saved only with what they stand for: Outbox.append,
    Reads.take_in."""

    async def load(self, connection: str, stream: str) -> Checkpoint | None: ...


class Facts(Protocol):
    """Small durable facts that the loops need after a restart."""

    async def usage_since(self, *, since_second: int) -> Sequence[QuotaUsage]: ...

    async def save_usage(self, usage: Sequence[QuotaUsage]) -> None: ...

    async def save_mapping(self, version: str, text: str, *, now: Millis) -> None:
        """Keep the text of a mapping version for as long as an entry in doubt names it."""
        ...

    async def mapping(self, version: str) -> str | None: ...

    async def pinned_account(self, connection: str) -> str | None:
        """The account this connection belongs to, None before its first contact."""
        ...

    async def pin_account(self, connection: str, account: str, *, force: bool = False) -> str:
        """The account this connection belongs to: `account` at first contact or `anew`, else
        what it was."""
        ...


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, and until when."""

    holder: str
    expires_at: Millis


class Leases(Protocol):
    """At most one holder per resource: promise 12."""

    async def acquire(
        self, resource: str, holder: str, *, now: Millis, ttl: int, dead_holder: str | None = None
    ) -> Fence | Holder:
        """The fence when it was free, expired, already ours or held by `gone`, who is known to
        be dead; else who holds it."""
        ...

    async def renew(self, fence: Fence, *, now: Millis, ttl: int) -> bool: ...

    async def release(self, fence: Fence) -> None: ...

    async def holder(self, resource: str) -> Holder | None: ...


class Store(Outbox, Protocol):
    """Everything that is remembered, by intent."""

    @property
    def dead_letters(self) -> DeadLetters: ...
    @property
    def lanes(self) -> Lanes: ...
    @property
    def reports(self) -> Reports: ...
    @property
    def checkpoints(self) -> Checkpoints: ...
    @property
    def facts(self) -> Facts: ...
    @property
    def leases(self) -> Leases: ...
    @property
    def commands(self) -> CommandQueue: ...
    @property
    def reads(self) -> Reads: ...
    @property
    def profiles(self) -> Profiles: ...
    @property
    def approvals(self) -> Approvals: ...
    @property
    def memberships(self) -> MembershipQueue: ...
    @property
    def member_groups(self) -> MemberGroups: ...
    @property
    def group_scans(self) -> GroupScans: ...
    @property
    def target_members(self) -> TargetMembers: ...
    @property
    def segment_joins(self) -> SegmentJoins: ...
    @property
    def actions(self) -> ActionQueue: ...
    @property
    def action_intake(self) -> ActionIntake: ...
    @property
    def action_views(self) -> ActionViews: ...
    @property
    def action_decisions(self) -> ActionDecisions: ...
    @property
    def notifications(self) -> Notifications: ...
    @property
    def erasure(self) -> Erasure: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def backfills(self) -> Backfills: ...
    @property
    def backfill_progress(self) -> BackfillProgress: ...
    @property
    def dry_runs(self) -> DryRuns: ...
    @property
    def people(self) -> PeopleIndex: ...

    async def aclose(self) -> None: ...
