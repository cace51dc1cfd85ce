"""Groups read in full, page by page, again and again.

A round that is cut off, by whatever, goes on from its last page; only one that came to its end
says who is not there any more (promise 6).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

from connector.domain.attention import (
    Need,
)
from connector.domain.errors import (
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    StoreError,
    Unknown,
    Wait,
)
from connector.domain.lanes import (
    Millis,
)
from connector.domain.memberships import (
    Group,
)
from connector.mapping.address import valid_email
from connector.net.retry import Backoff
from connector.ports import Clock, Lease, Member, Memberships, MembersPage
from connector.runtime import log
from connector.sync.memberships.links import need_of
from connector.sync.memberships.target_sync import Keeper

Read = Callable[[str, str | None], Awaitable[MembersPage]]
"""(the far end's id of the group, the cursor) → the page there. Raises DeliveryError."""
Since = Callable[[str, str | None, Millis], Awaitable[MembersPage]]
"""The same, of those only who joined since then."""

_LEASE_LOST = 1.0
_OVERLAP = 60_000
"""ms: far ends show a new member a little later than they say he joined."""


class Round(ABC):
    """One group read every `every` seconds, counted from begin to begin, under the lease.

    `asleep` says when nothing may be asked, because the account behind it is in question."""

    def __init__(
        self,
        keeper: Keeper,
        group: int,
        read: Read,
        *,
        every: float,
        memberships: Memberships,
        lease: Lease,
        clock: Clock,
        asleep: Callable[[], bool],
    ) -> None:
        self.group = group
        self._keeper = keeper
        self._read = read
        self._every = every
        self._store = memberships
        self._lease = lease
        self._clock = clock
        self._asleep = asleep
        self._bell = asyncio.Event()
        self._asked = False
        self._busy = False
        self._quiet = False
        self._wished = False
        self._failures = 0
        self._backoff = Backoff(1.0, 300.0)
        self._log = log.get("audiences")

    # ── from outside ─────────────────────────────────────────────────────────────────────────────

    def ring(self) -> None:
        """Read it now, whether or not it is due."""
        self._asked = True
        self._quiet = False
        self._bell.set()

    def wake(self) -> None:
        """Something was answered or arrived: look again, and read it if it is due."""
        self._bell.set()

    async def idle(self) -> bool:
        """Whether it has been read since the first who asked, and that has been told further.
        Whoever waits for idleness wants everything read once."""
        if not self._wished:
            self._wished = True
            self.ring()
        if self._asleep():
            return not self._busy
        if self._asked or self._busy:
            return False
        # What a round came to is in the queues by now: whoever asks looks there once more.
        quiet, self._quiet = self._quiet, True
        return quiet

    async def needs(self) -> Sequence[Need]:
        """Why it could not be read, if it could not."""
        return [need_of(await self._now())] if self._failures else []

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """For ever. Nothing that a far end or the store does ends it."""
        while True:
            wait = _LEASE_LOST
            if self._lease.valid() and not self._asleep():
                self._bell.clear()
                wait = await self._turn()
            await self._clock.wait(self._bell, wait)

    async def _turn(self) -> float:
        """One look; seconds until the next."""
        self._busy = True
        try:
            return await self._look()
        except StoreError as error:
            self._log.warning("the store does not answer", detail=error.detail)
            return _LEASE_LOST
        except DeliveryError as error:
            return await self._failed(error)
        except Exception as error:
            # An adapter's fault must not end its rounds.
            self._log.exception("a group could not be read")
            return await self._failed(Unknown(Problem.ANSWER_UNREADABLE, repr(error)))
        finally:
            self._busy = False

    async def _failed(self, error: DeliveryError) -> float:
        self._asked = False
        self._failures += 1
        group = await self._now()
        if self._failures == 1:
            self._log.error(
                "a group cannot be read",
                connection=group.connection,
                group=group.name,
                problem=error.problem.value,
                detail=error.detail,
            )
        await self._store.failing(self.group, error.problem, error.detail)
        if isinstance(error, Rejected) and group.begun_at is not None:
            # The cursor, most likely: what it stood for is not to be had any more.
            await self._store.begin(self.group, self._lease.fence, now=self._clock.now())
        if isinstance(error, Blocked) and error.status == 404:
            await self._keeper.lost(group)
        after = error.after if isinstance(error, Wait) else 0.0
        return self._backoff(self._failures, after)

    async def _look(self) -> float:
        group = await self._now()
        await self._before(group)
        due = self._due(group)
        if group.begun_at is None and not self._asked and due > 0:
            return due
        # Asked for meanwhile: that is for the next round.
        self._asked = False
        far_id = await self._keeper.resolve(group)
        if far_id is None:
            self._failures += 1
            return min(self._every, 60.0)
        began = group.begun_at
        if began is None:
            group = await self._store.begin(group.id, self._lease.fence, now=self._clock.now())
        group = await self._pages(group, far_id, fresh=began is None)
        self._failures = 0
        await self._store.failing(group.id, None)
        await self._after(group)
        return max(0.0, self._due(await self._now()))

    def _due(self, group: Group) -> float:
        """Seconds until the next round should begin."""
        if group.completed_at is None:
            return 0.0
        return (group.completed_at - group.took - self._clock.now()) / 1000 + self._every

    async def _pages(self, group: Group, far_id: str, *, fresh: bool) -> Group:
        if fresh:
            group = await self._early(group, far_id)
        while True:
            cursor, asked_at = group.cursor, self._clock.now()
            page = await self._read(far_id, cursor)
            if page.more and page.cursor in (None, cursor):
                raise Rejected(Problem.ANSWER_UNREADABLE, "the far end's cursor repeats itself")
            if not self._lease.valid():
                raise StoreError(Problem.STORE_HELD, "the lease ended while a page was read")
            group = await self._keep(group, page, asked_at)
            if not page.more:
                return group

    async def _now(self) -> Group:
        [found] = [g for g in await self._store.groups() if g.id == self.group]
        return found

    @abstractmethod
    async def _before(self, group: Group) -> None:
        """What an earlier round left to be decided."""

    async def _early(self, group: Group, far_id: str) -> Group:
        """What can be told before the whole group is read."""
        return group

    @abstractmethod
    async def _keep(self, group: Group, page: MembersPage, asked_at: Millis) -> Group:
        """Store one page."""

    @abstractmethod
    async def _after(self, group: Group) -> None:
        """What a complete round is for."""


class Scan(Round):
    """Reads a source: an audience, or a segment, of which `since` tells the newest members first.

    `greets` says whether those who join now are greeted, `joined` is told that some may have."""

    def __init__(
        self,
        keeper: Keeper,
        group: int,
        read: Read,
        *,
        since: Since | None = None,
        greets: Callable[[Group], bool] = lambda group: False,
        joined: Callable[[], None] = lambda: None,
        scanned: Callable[[Group], None] = lambda group: None,
        every: float,
        memberships: Memberships,
        lease: Lease,
        clock: Clock,
        asleep: Callable[[], bool],
    ) -> None:
        super().__init__(
            keeper,
            group,
            read,
            every=every,
            memberships=memberships,
            lease=lease,
            clock=clock,
            asleep=asleep,
        )
        self._since = since
        self._greets = greets
        self._joined = joined
        self._scanned = scanned

    async def _before(self, group: Group) -> None:
        await self._keeper.judge(group)

    async def _early(self, group: Group, far_id: str) -> Group:
        """Those who joined since the last round began need not wait for this one to end."""
        if self._since is None or group.completed_at is None:
            return group
        since = Millis(group.completed_at - group.took - _OVERLAP)
        cursor: str | None = None
        while True:
            asked_at = self._clock.now()
            page = await self._since(far_id, cursor, since)
            # No cursor is kept: what follows begins at the beginning.
            group = await self._keep(group, MembersPage(page.members, None, True), asked_at)
            if not page.more or page.cursor in (None, cursor):
                return group
            cursor = page.cursor

    async def _keep(self, group: Group, page: MembersPage, asked_at: Millis) -> Group:
        members, without = clean(page.members)
        kept = await self._store.stage(
            group.id,
            MembersPage(members, page.cursor, page.more),
            self._lease.fence,
            asked_at=asked_at,
            now=self._clock.now(),
            greets=self._greets(group),
            without_address=without,
        )
        self._keeper.changed()
        self._joined()
        return kept

    async def _after(self, group: Group) -> None:
        self._scanned(group)
        await self._keeper.judge(group)
        await self._keeper.scanned()


class ReadBack(Round):
    """Reads a list as it is at Klaviyo."""

    async def _keep(self, group: Group, page: MembersPage, asked_at: Millis) -> Group:
        members, _ = clean(page.members)
        page = MembersPage(members, page.cursor, page.more)
        kept = await self._store.read_back(
            group.id, page, self._lease.fence, asked_at=asked_at, now=self._clock.now()
        )
        self._keeper.changed()
        return kept

    async def _before(self, group: Group) -> None:
        await self._keeper.reconsider(group)

    async def _after(self, group: Group) -> None:
        await self._keeper.looked(group)


def clean(members: Sequence[Member]) -> tuple[list[Member], int]:
    """Members whom Klaviyo can be told of, their addresses in lower case, and how many others."""
    kept: list[Member] = []
    for member in members:
        email = (member.email or "").strip().lower()
        if valid_email(email):
            kept.append(Member(member.platform_id, email, member.profile, member.since))
    return kept, len(members) - len(kept)
