"""The store as a container of ports. Each port is one intent, each method one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from connector.domain.errors import StoreError
from connector.domain.lanes import Kind, Lane, LaneId, LaneState, Millis, MinuteCount, QuotaUsage
from connector.domain.records import Appended, Checkpoint, Page, State
from connector.ports.actions import ActionDecisions, ActionIntake, ActionQueue, ActionViews
from connector.ports.admin import Approvals, CommandQueue, DeadLetters, Notifications, StuckPeople
from connector.ports.backfills import BackfillProgress, Backfills, DryRuns, PeopleIndex
from connector.ports.memberships import (
    GroupScans,
    MemberGroups,
    MembershipQueue,
    SegmentJoins,
    TargetMembers,
)
from connector.ports.people import AddressScopes, Erasure, Ledger, Profiles, Reads
from connector.ports.queues import Fence, Queue, Receipts
from connector.ports.reports import Reports, Timelines
from connector.ports.secrets import Authorizations, Secrets
from connector.ports.settings import Audit, Settings
from connector.ports.unsets import UnsetFields


class Outbox(Queue, Protocol):
    """Records from receipt to confirmation (guarantees 1, 2 and 10)."""

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        """Store the pages with their checkpoints; one result per page. Many records are stored part
        by part, so that they hold up no other writer, and a page's checkpoint with its last part.

        A record whose key is known is a duplicate and changes nothing. One without an address gets
        the address of its person if that is known, else it is held; a page that brings a person's
        address releases what was held for that person.
        """
        ...

    async def release_waiting(self, lane: LaneId, *, now: Millis) -> int:
        """Make the records ready that waited because their lane sent nothing (NOT_LIVE); how many.
        A large number is released part by part."""
        ...


class Lanes(Protocol):
    """The lanes of all connections and whether they run."""

    async def ensure(self, connection: str, destination: str, kind: Kind) -> Lane: ...

    async def all(self) -> Sequence[tuple[Lane, LaneState]]: ...

    async def set_state(self, lane: LaneId, state: LaneState, fence: Fence | None = None) -> None:
        """With a `fence` only under its lease: raises StoreError (STORE_HELD) where another process
        may have stored a newer state."""
        ...

    async def due(self, lanes: Collection[Lane], *, now: Millis) -> frozenset[LaneId]:
        """Which of these lanes have an entry that may be claimed now."""
        ...


class Checkpoints(Protocol):
    """Cursors of streams. They are saved only together with their records: Outbox.append,
    Reads.bulk_observe."""

    async def load(self, connection: str, stream: str) -> Checkpoint | None: ...


class Facts(Protocol):
    """Small durable facts that the loops need after a restart."""

    async def usage_since(self, account: str, since: Mapping[str, int]) -> Sequence[QuotaUsage]:
        """What an account was granted: endpoint → the first second (since 1970) that counts."""
        ...

    async def save_usage(self, usage: Sequence[QuotaUsage]) -> None: ...

    async def add_throughput(self, counts: Sequence[MinuteCount]) -> None:
        """Add to the stored minutes; those older than a day before the newest are deleted."""
        ...

    async def throughput(self, *, since_minute: int) -> Sequence[MinuteCount]:
        """Stored minutes from then on, in no order."""
        ...

    async def save_mapping(self, version: str, text: str, *, now: Millis) -> None:
        """Keep the text of a mapping version for as long as an ambiguous entry names it."""
        ...

    async def mapping(self, version: str) -> str | None: ...

    async def pinned_account(self, connection: str) -> str | None:
        """The account this connection belongs to, None before its first contact."""
        ...

    async def pinned_accounts(self) -> Mapping[str, str]:
        """Connection → account, of all connections that had contact."""
        ...

    async def pin_account(self, connection: str, account: str, *, force: bool = False) -> str:
        """The account this connection belongs to: `account` at first contact or with `force`, else
        what it was."""
        ...


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, or held it until it `expired`. `expires_at` is 0 where it was released."""

    holder: str
    expires_at: Millis
    expired: bool


class Leases(Protocol):
    """At most one holder per resource (guarantee 12).

    `ttl` is in ms. Leases end by the clock of the store: where replicas share a database by the
    database's, so that clocks of machines need not agree; on SQLite by `now`.
    """

    async def acquire(
        self, resource: str, holder: str, *, now: Millis, ttl: int, dead_holder: str | None = None
    ) -> Fence | Holder:
        """A fence where the lease is free, expired, already this holder's or held by `dead_holder`;
        else who holds it."""
        ...

    async def renew(self, fences: Collection[Fence], *, now: Millis, ttl: int) -> frozenset[Fence]:
        """Those that no other process has taken, renewed. All are of one holder."""
        ...

    async def release(self, fences: Collection[Fence]) -> None: ...

    async def holders(self, *, now: Millis) -> Mapping[str, Holder]:
        """By resource: every lease that was ever taken."""
        ...

    async def database_time(self) -> Millis | None:
        """The clock that all replicas share; None where the store has none (SQLite)."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A process as it reports itself. `offers` are the resources whose lease it can use; none while
    it stops. `document` is JSON."""

    holder: str
    saved_at: Millis
    offers: frozenset[str]
    document: str


class ProcessReports(Protocol):
    """What each process says about itself, for other replicas and those who look from outside."""

    async def save(self, state: ProcessState) -> None:
        """Replace what this process has reported."""
        ...

    async def since(self, saved_at: Millis) -> Sequence[ProcessState]:
        """Processes that have reported since then, the newest report first."""
        ...

    async def latest(self) -> ProcessState | None:
        """The newest report; None where no process has run."""
        ...

    async def withdraw(self, state: ProcessState) -> None:
        """As `save`, unless the report was taken: the process stops and offers nothing."""
        ...

    async def take(self, holders: Collection[str]) -> Sequence[ProcessState]:
        """Delete the reports of these processes, and return those that there were: only one of
        several callers gets each."""
        ...

    async def prune(self, *, before: Millis) -> int:
        """Delete all older reports but the newest one; how many."""
        ...


class Hints(Protocol):
    """Hints to other processes that share the store: it is worth a look at the lanes of a
    connection, or at the leases. They may be lost."""

    async def send(self, connections: Collection[str]) -> None: ...

    async def send_released(self) -> None:
        """Leases were released."""
        ...

    async def receive(
        self, on_hint: Callable[[str], None], on_released: Callable[[], None]
    ) -> None:
        """Call `on_hint` with each connection, and `on_released` after leases were released, until
        it is cancelled. Raises StoreError when no hint can arrive any more."""
        ...


@dataclass(frozen=True, slots=True)
class Pruned:
    """A part of retention: how many records it deleted, and where to continue; None at the end."""

    deleted: int
    after: int | None


class Maintenance(Protocol):
    """Retention, disk space and the end of the store."""

    async def prune_records(
        self, *, now: Millis, keep: Mapping[State, int], limit: int, after: int = 0
    ) -> Pruned:
        """Delete settled records older than `keep[state]` ms, looking at up to `limit` records
        after `after`. What is ready, claimed or not named in `keep` stays. Held and dead records
        are found by an index of their own where `keep` names no other state."""
        ...

    async def prune_timeline(self, *, before: Millis, limit: int) -> int:
        """Delete what only timelines need: requests, the journal, finished commands. At most
        `limit` of each; returns how many in all."""
        ...

    async def clear_bodies(self, *, before: Millis, after: int, limit: int) -> int | None:
        """Delete the bodies of settled records received before then, looking at up to `limit`
        records after `after`; returns where to continue, None at the end. Their ids stay known."""
        ...

    async def fold_counters(self) -> None:
        """Add up what statements have added to the counters since the last call. Call it every few
        seconds."""
        ...

    async def free_pages(self, pages: int) -> int:
        """Return up to `pages` free pages to the disk, while much of the file is free; how many
        were returned. One short transaction."""
        ...

    def size_bytes(self) -> int | None:
        """The store's files on disk, the write-ahead log included; None for a database server."""
        ...

    def free_bytes(self) -> int | None:
        """Free disk where the store writes; None for a database server."""
        ...

    async def locked_by(self) -> str | None:
        """The program that holds the write lock of the store's file now, in words; None: none."""
        ...

    def fault(self) -> StoreError | None:
        """Why nothing may be acknowledged any more, until a person has acted: damage that was met,
        or a file that was replaced. None: nothing of the kind is known. Cheap."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The ports of one store."""

    outbox: Outbox
    reads: Reads
    profiles: Profiles
    profile_receipts: Receipts
    unset_fields: UnsetFields
    memberships: MembershipQueue
    membership_receipts: Receipts
    member_groups: MemberGroups
    group_scans: GroupScans
    target_members: TargetMembers
    segment_joins: SegmentJoins
    actions: ActionQueue
    action_intake: ActionIntake
    action_views: ActionViews
    action_decisions: ActionDecisions
    lanes: Lanes
    leases: Leases
    checkpoints: Checkpoints
    facts: Facts
    commands: CommandQueue
    approvals: Approvals
    dead_letters: DeadLetters
    stuck_people: StuckPeople
    notifications: Notifications
    secrets: Secrets
    authorizations: Authorizations
    settings: Settings
    audit: Audit
    process_reports: ProcessReports
    hints: Hints
    reports: Reports
    timelines: Timelines
    people: PeopleIndex
    backfills: Backfills
    backfill_progress: BackfillProgress
    dry_runs: DryRuns
    erasure: Erasure
    address_scopes: AddressScopes
    ledger: Ledger
    maintenance: Maintenance

    async def aclose(self) -> None:
        await self.maintenance.aclose()
