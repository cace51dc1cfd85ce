"""Groups read in full, page by page, again and again.

A round that is cut off, by whatever, goes on from its last page; only one that came to its end
says who is not there any more (promise 6).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

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
from connector.ports import Clock, Lease, Member, Memberships, MembersPage
from connector.runtime import log
from connector.sync.memberships.links import attention_item
from connector.sync.memberships.target_sync import TargetSync

ReadPage = Callable[[str, str | None], Awaitable[MembersPage]]
"""(the far end's id of the group, the cursor) → the page there. Raises DeliveryError."""
ReadPageSince = Callable[[str, str | None, Millis], Awaitable[MembersPage]]
"""The same, of those only who joined since then."""

_LEASE_RETRY = 1.0
_OVERLAP = 60_000
"""ms: far ends show a new member a little later than they say he joined."""


class GroupScan(ABC):
    """One group read every `every` seconds, counted from begin to begin, under the lease.

    `asleep` says when nothing may be asked, because the account behind it is in question."""

    def __init__(
        self,
        target_sync: TargetSync,
        group: int,
        read_page: ReadPage,
        *,
        every: float,
        memberships: Memberships,
        lease: Lease,
        clock: Clock,
        is_blocked: Callable[[], bool],
    ) -> None:
        self.group = group
        self._target_sync = target_sync
        self._read_page = read_page
        self._every = every
        self._store = memberships
        self._lease = lease
        self._clock = clock
        self._is_blocked = is_blocked
        self.wakeup = asyncio.Event()
        self._requested = False
        self._busy = False
        self._was_idle = False
        self._first_idle_check_done = False
        self._failures = 0
        self._backoff = Backoff(1.0, 300.0)
        self._log = log.get("audiences")

    # ── from outside ─────────────────────────────────────────────────────────────────────────────

    def trigger(self) -> None:
        """Read it now, whether or not it is due."""
        self._requested = True
        self._was_idle = False
        self.wakeup.set()

    def wake(self) -> None:
        """Something was answered or arrived: look again, and read it if it is due."""
        self.wakeup.set()

    async def idle(self) -> bool:
        """Whether it has been read since the first who asked, and that has been told further.
        Whoever waits for idleness wants everything read once."""
        if not self._first_idle_check_done:
            self._first_idle_check_done = True
            self.trigger()
        if self._is_blocked():
            return not self._busy
        if self._requested or self._busy:
            return False
        # What a round came to is in the queues by now: whoever asks looks there once more.
        was_idle, self._was_idle = self._was_idle, True
        return was_idle

    async def attention(self) -> Sequence[AttentionItem]:
        """Why it could not be read, if it could not."""
        return [attention_item(await self._load_group())] if self._failures else []

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────

    async def run_once(self) -> float:
        """One scan, if it is due. Seconds until the next pass."""
        if not self._lease.valid() or self._is_blocked():
            return _LEASE_RETRY
        self._busy = True
        try:
            return await self._scan_if_due()
        except DeliveryError as error:
            return await self._record_failure(error)
        except Exception as error:
            # An adapter's fault must not end its rounds.
            self._log.exception("a group could not be read")
            return await self._record_failure(
                AmbiguousError(Problem.ANSWER_UNREADABLE, repr(error))
            )
        finally:
            self._busy = False

    async def _record_failure(self, error: DeliveryError) -> float:
        self._requested = False
        self._failures += 1
        group = await self._load_group()
        if self._failures == 1:
            self._log.error(
                "a group cannot be read",
                connection=group.connection,
                group=group.name,
                problem=error.problem.value,
                detail=error.detail,
            )
        await self._store.set_problem(self.group, error.problem, error.detail)
        if isinstance(error, Rejected) and group.scan_started_at is not None:
            # The cursor, most likely: what it stood for is not to be had any more.
            await self._store.begin_scan(self.group, self._lease.fence, now=self._clock.now())
        if isinstance(error, Blocked) and error.status == 404:
            await self._target_sync.forget_remote_id(group)
        after = error.after if isinstance(error, RetryLater) else 0.0
        return self._backoff(self._failures, after)

    async def _scan_if_due(self) -> float:
        group = await self._load_group()
        await self._before_scan(group)
        due = self._due(group)
        if group.scan_started_at is None and not self._requested and due > 0:
            return due
        # Asked for meanwhile: that is for the next round.
        self._requested = False
        far_id = await self._target_sync.resolve(group)
        if far_id is None:
            self._failures += 1
            return min(self._every, 60.0)
        began = group.scan_started_at
        if began is None:
            group = await self._store.begin_scan(group.id, self._lease.fence, now=self._clock.now())
        group = await self._read_pages(group, far_id, fresh=began is None)
        self._failures = 0
        await self._store.set_problem(group.id, None)
        await self._after_scan(group)
        return max(0.0, self._due(await self._load_group()))

    def _due(self, group: Group) -> float:
        """Seconds until the next round should begin."""
        if group.completed_at is None:
            return 0.0
        return (group.completed_at - group.scan_ms - self._clock.now()) / 1000 + self._every

    async def _read_pages(self, group: Group, far_id: str, *, fresh: bool) -> Group:
        if fresh:
            group = await self._read_recent(group, far_id)
        while True:
            cursor, asked_at = group.cursor, self._clock.now()
            page = await self._read_page(far_id, cursor)
            if page.more and page.cursor in (None, cursor):
                raise Rejected(Problem.ANSWER_UNREADABLE, "the far end's cursor repeats itself")
            if not self._lease.valid():
                raise StoreError(Problem.STORE_HELD, "the lease ended while a page was read")
            group = await self._store_page(group, page, asked_at)
            if not page.more:
                return group

    async def _load_group(self) -> Group:
        [found] = [g for g in await self._store.groups() if g.id == self.group]
        return found

    @abstractmethod
    async def _before_scan(self, group: Group) -> None:
        """What an earlier round left to be decided."""

    async def _read_recent(self, group: Group, far_id: str) -> Group:
        """What can be told before the whole group is read."""
        return group

    @abstractmethod
    async def _store_page(self, group: Group, page: MembersPage, asked_at: Millis) -> Group:
        """Store one page."""

    @abstractmethod
    async def _after_scan(self, group: Group) -> None:
        """What a complete round is for."""


class SourceScan(GroupScan):
    """Reads a source: an audience, or a segment, of which `since` tells the newest members first.

    `greets` says whether those who join now are greeted, `joined` is told that some may have."""

    def __init__(
        self,
        target_sync: TargetSync,
        group: int,
        read_page: ReadPage,
        *,
        since: ReadPageSince | None = None,
        greets: Callable[[Group], bool] = lambda group: False,
        on_joined: Callable[[], None] = lambda: None,
        on_scan_complete: Callable[[Group], None] = lambda group: None,
        every: float,
        memberships: Memberships,
        lease: Lease,
        clock: Clock,
        is_blocked: Callable[[], bool],
    ) -> None:
        super().__init__(
            target_sync,
            group,
            read_page,
            every=every,
            memberships=memberships,
            lease=lease,
            clock=clock,
            is_blocked=is_blocked,
        )
        self._read_since = since
        self._starts_join_actions = greets
        self._on_joined = on_joined
        self._on_scan_complete = on_scan_complete

    async def _before_scan(self, group: Group) -> None:
        await self._target_sync.apply_removals(group)

    async def _read_recent(self, group: Group, far_id: str) -> Group:
        """Those who joined since the last round began need not wait for this one to end."""
        if self._read_since is None or group.completed_at is None:
            return group
        since = Millis(group.completed_at - group.scan_ms - _OVERLAP)
        cursor: str | None = None
        while True:
            asked_at = self._clock.now()
            page = await self._read_since(far_id, cursor, since)
            # No cursor is kept: what follows begins at the beginning.
            group = await self._store_page(group, MembersPage(page.members, None, True), asked_at)
            if not page.more or page.cursor in (None, cursor):
                return group
            cursor = page.cursor

    async def _store_page(self, group: Group, page: MembersPage, asked_at: Millis) -> Group:
        members, without_address = valid_members(page.members)
        kept = await self._store.stage_page(
            group.id,
            MembersPage(members, page.cursor, page.more),
            self._lease.fence,
            requested_at=asked_at,
            now=self._clock.now(),
            track_joins=self._starts_join_actions(group),
            without_address=without_address,
        )
        self._target_sync.notify_lane()
        self._on_joined()
        return kept

    async def _after_scan(self, group: Group) -> None:
        self._on_scan_complete(group)
        await self._target_sync.apply_removals(group)
        await self._target_sync.on_scan_complete()


class TargetReadBack(GroupScan):
    """Reads a list as it is at Klaviyo."""

    async def _store_page(self, group: Group, page: MembersPage, asked_at: Millis) -> Group:
        members, _ = valid_members(page.members)
        page = MembersPage(members, page.cursor, page.more)
        kept = await self._store.read_back(
            group.id, page, self._lease.fence, requested_at=asked_at, now=self._clock.now()
        )
        self._target_sync.notify_lane()
        return kept

    async def _before_scan(self, group: Group) -> None:
        await self._target_sync.reevaluate(group)

    async def _after_scan(self, group: Group) -> None:
        await self._target_sync.on_read_back_complete(group)


def valid_members(members: Sequence[Member]) -> tuple[list[Member], int]:
    """Members whom Klaviyo can be told of, their addresses in lower case, and how many others."""
    kept: list[Member] = []
    for member in members:
        email = (member.email or "").strip().lower()
        if valid_email(email):
            kept.append(Member(member.platform_id, email, member.profile_id, member.joined_at))
    return kept, len(members) - len(kept)
