"""Groups read in full, page by page, on a schedule.

An interrupted scan continues from its last saved page. Only a complete scan says who is not in the
group any more (guarantee 6).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from connector.domain.attention import AttentionItem
from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
    StoreError,
)
from connector.domain.lanes import Millis
from connector.domain.memberships import Group
from connector.mapping.address import valid_email
from connector.net.retry import Backoff
from connector.ports import Clock, GroupScans, Lease, Member, MemberGroups, MembersPage
from connector.runtime import log
from connector.runtime.failures import FailureStreak
from connector.sync.memberships.join_actions import JoinActionsWorker
from connector.sync.memberships.links import attention_item
from connector.sync.memberships.remote_groups import GroupResolver, RemoteGroups
from connector.sync.memberships.target_sync import TargetSync

_LEASE_RETRY = 1.0
_UNRESOLVED_RETRY = _PROCESSING_RETRY = 60.0
_OVERLAP_MS = 60_000
"""The remote side may list a new member a little later than the time at which they joined."""


@dataclass(frozen=True, slots=True)
class ScanServices:
    """What all scans of a connection use. `is_blocked`: no request may be sent now, because the
    connection's Klaviyo account is in question."""

    groups: MemberGroups
    scans: GroupScans
    lease: Lease
    clock: Clock
    is_blocked: Callable[[], bool]


class GroupScan(ABC):
    """connector.ports.workers.Loop that scans one group every `every` seconds, counted from start
    to start, while this process has the lease."""

    def __init__(
        self,
        group: Group,
        remote: RemoteGroups,
        target_sync: TargetSync,
        services: ScanServices,
        *,
        every: float,
    ) -> None:
        self.group = group.id
        self.wakeup = asyncio.Event()
        self._remote = remote
        self._target_sync = target_sync
        self._every = every
        self._groups = services.groups
        self._scans = services.scans
        self._lease = services.lease
        self._clock = services.clock
        self._is_blocked = services.is_blocked
        self._resolver = GroupResolver(remote, services.groups, services.clock)
        self._requested = False
        self._busy = False
        self._was_idle = False
        self._first_idle_check_done = False
        logger = log.get("memberships").bind(connection=group.connection, group=group.name)
        self._failures = FailureStreak(logger, "scan_failed", "scan_recovered")
        self._backoff = Backoff(1.0, 300.0)

    def trigger(self) -> None:
        """Scan now, due or not."""
        self._requested = True
        self._was_idle = False
        self.wakeup.set()

    def wake(self) -> None:
        """Scan now if it is due."""
        self.wakeup.set()

    async def idle(self) -> bool:
        """Whether the group was scanned since the first call of this method: a caller that waits
        for idleness wants one complete scan."""
        if not self._first_idle_check_done:
            self._first_idle_check_done = True
            self.trigger()
        if self._is_blocked():
            return not self._busy
        if self._requested or self._busy:
            return False
        # The scan has just filled the queues: the caller looks at them once more before it stops.
        was_idle, self._was_idle = self._was_idle, True
        return was_idle

    async def attention(self) -> Sequence[AttentionItem]:
        return [attention_item(await self._groups.get(self.group))] if self._failures.count else []

    async def run_once(self) -> float:
        if not self._lease.valid() or self._is_blocked():
            return _LEASE_RETRY
        self._busy = True
        try:
            return await self._scan_if_due()
        except DeliveryError as error:
            return await self._record_failure(error)
        except StoreError:
            raise
        except Exception as error:
            # A fault of the platform's adapter. The group shows it, the supervisor logs and counts.
            problem = Problem.ANSWER_UNREADABLE
            await self._record_failure(AmbiguousError(problem, type(error).__name__))
            raise
        finally:
            self._busy = False

    async def _record_failure(self, error: DeliveryError) -> float:
        """Save why the scan failed; seconds until the next attempt."""
        self._requested = False
        self._failures.record(error.detail, problem=error.problem.value)
        group = await self._groups.get(self.group)
        await self._groups.set_problem(self.group, error.problem, error.detail)
        if isinstance(error, Rejected) and group.scan_started_at is not None:
            # Most likely the cursor has expired.
            await self._scans.begin(self.group, self._lease.fence, now=self._clock.now())
        if isinstance(error, Blocked) and error.status == 404:
            await self._resolver.forget(group)
        after = error.after if isinstance(error, RetryLater) else 0.0
        return self._backoff(self._failures.count, after)

    async def _scan_if_due(self) -> float:
        group = await self._groups.get(self.group)
        await self._before_scan(group)
        due_in = self._due_in(group)
        if group.scan_started_at is None and not self._requested and due_in > 0:
            return due_in
        # A request that comes from here on is for the next scan.
        self._requested = False
        remote_id = await self._resolve(group)
        if remote_id is None:
            self._failures.record("the remote side has no group, or several, of this name")
            return min(self._every, _UNRESOLVED_RETRY)
        if group.scan_started_at is None:
            group = await self._begin(group, remote_id)
        if await self._remote.is_processing(remote_id):
            return await self._restart_later(group)
        scanned = await self._read_pages(group, remote_id)
        if scanned is None:
            return await self._restart_later(group)
        group = scanned
        self._failures.clear()
        await self._groups.set_problem(group.id, None)
        await self._after_scan(group)
        return max(0.0, self._due_in(await self._groups.get(self.group)))

    async def _resolve(self, group: Group) -> str | None:
        remote_id = await self._resolver.resolve(group)
        if remote_id is not None and group.remote_id is None:
            self._target_sync.notify_lane()
        return remote_id

    def _due_in(self, group: Group) -> float:
        """Seconds until the next scan should start."""
        started_at = group.completed_scan_started_at
        return 0.0 if started_at is None else (started_at - self._clock.now()) / 1000 + self._every

    async def _restart_later(self, group: Group) -> float:
        """The remote side still computes the group: pages of it say nothing about who is missing.
        Seconds until the scan starts at its first page again."""
        await self._scans.begin(group.id, self._lease.fence, now=self._clock.now())
        detail = (
            f"Klaviyo is still computing {group.name}, so its scan waits and no one is removed; it "
            "continues by itself"
        )
        await self._groups.set_problem(group.id, Problem.SEGMENT_PROCESSING, detail)
        return _PROCESSING_RETRY

    async def _read_pages(self, group: Group, remote_id: str) -> Group | None:
        """None where the group was not complete by the end."""
        while True:
            cursor, requested_at = group.cursor, self._clock.now()
            page = await self._remote.members(remote_id, cursor)
            if page.more and page.cursor in (None, cursor):
                raise Rejected(Problem.ANSWER_UNREADABLE, "the cursor of the next page is repeated")
            if not page.more and await self._remote.is_processing(remote_id):
                return None
            if not self._lease.valid():
                raise StoreError(Problem.STORE_HELD, "the lease ended while a page was read")
            group = await self._save_page(group, page, requested_at)
            if not page.more:
                return group

    async def _begin(self, group: Group, remote_id: str) -> Group:
        return await self._scans.begin(group.id, self._lease.fence, now=self._clock.now())

    @abstractmethod
    async def _before_scan(self, group: Group) -> None:
        """Do what waited since an earlier scan."""

    @abstractmethod
    async def _save_page(self, group: Group, page: MembersPage, requested_at: Millis) -> Group: ...

    @abstractmethod
    async def _after_scan(self, group: Group) -> None: ...


class SourceScan(GroupScan):
    """Scans a source: an audience or a segment. Joins are tracked for `join_actions`."""

    def __init__(
        self,
        group: Group,
        remote: RemoteGroups,
        target_sync: TargetSync,
        services: ScanServices,
        *,
        every: float,
        join_actions: JoinActionsWorker | None = None,
    ) -> None:
        super().__init__(group, remote, target_sync, services, every=every)
        self._join_actions = join_actions

    async def _before_scan(self, group: Group) -> None:
        await self._target_sync.apply_removals(group)

    async def _begin(self, group: Group, remote_id: str) -> Group:
        group = await super()._begin(group, remote_id)
        if self._remote.filters_by_join_time and group.completed_scan_started_at is not None:
            since = Millis(group.completed_scan_started_at - _OVERLAP_MS)
            await self._read_new_members(group, remote_id, since)
        return group

    async def _read_new_members(self, group: Group, remote_id: str, since: Millis) -> None:
        """Those who joined since the last complete scan started need not wait for this one."""
        cursor: str | None = None
        while True:
            requested_at = self._clock.now()
            page = await self._remote.members(remote_id, cursor, since=since)
            # Saved without a cursor: the full scan that follows starts at the first page.
            await self._save_page(group, MembersPage(page.members, None, True), requested_at)
            if not page.more or page.cursor in (None, cursor):
                return
            cursor = page.cursor

    async def _save_page(self, group: Group, page: MembersPage, requested_at: Millis) -> Group:
        members = valid_members(page.members)
        tracks_joins = self._join_actions is not None and self._join_actions.tracks_joins(group)
        saved = await self._scans.save_source_page(
            group.id,
            MembersPage(members, page.cursor, page.more),
            self._lease.fence,
            requested_at=requested_at,
            now=self._clock.now(),
            track_joins=tracks_joins,
            without_address=len(page.members) - len(members),
        )
        self._target_sync.notify_lane()
        if self._join_actions is not None:
            self._join_actions.wake()
        return saved

    async def _after_scan(self, group: Group) -> None:
        await self._target_sync.on_source_scanned(group)


class TargetReadBack(GroupScan):
    """Reads a list as it is at Klaviyo."""

    async def _before_scan(self, group: Group) -> None:
        await self._target_sync.reevaluate()

    async def _save_page(self, group: Group, page: MembersPage, requested_at: Millis) -> Group:
        saved = await self._scans.save_target_page(
            group.id,
            MembersPage(valid_members(page.members), page.cursor, page.more),
            self._lease.fence,
            requested_at=requested_at,
            now=self._clock.now(),
        )
        self._target_sync.notify_lane()
        return saved

    async def _after_scan(self, group: Group) -> None:
        await self._target_sync.on_target_read_back()


def valid_members(members: Sequence[Member]) -> list[Member]:
    """The members whose address Klaviyo accepts, with the address in lower case."""
    valid: list[Member] = []
    for member in members:
        email = (member.email or "").strip().lower()
        if valid_email(email):
            valid.append(replace(member, email=email))
    return valid
