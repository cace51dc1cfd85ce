"""Memberships of lists and tags. A source (audience, segment) is scanned, a target (list, tag) is
kept.

Each Protocol is one intent: the queue that a lane delivers, the groups and their links, the scans
that read them page by page, the members of a target as a set, and joins of segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.memberships import Group, Link
from connector.domain.records import State
from connector.ports.platform import Member, MembersPage
from connector.ports.queues import Fence, Queue


@dataclass(frozen=True, slots=True)
class PendingRemovals:
    """A sync would remove `count` of the `total` people that a target should have."""

    count: int
    total: int


@dataclass(frozen=True, slots=True)
class MembershipCounts:
    """The people of one target: who should be on it (`wanted`), who is on it as far as known
    (`actual`), both (`matching`), whose change is queued or in flight (`pending`), whose change
    was accepted without a confirmation (`unconfirmed`), who was removed by hand on the remote side
    (`removed`), and who was added by others (`foreign`)."""

    wanted: int
    actual: int
    matching: int
    pending: int
    unconfirmed: int
    removed: int
    foreign: int


class MembershipQueue(Queue, Protocol):
    """Membership changes as queue entries (guarantee 5). One write of a membership is in flight at
    a time, so a leave never crosses a join. A leave is a SINGLE entry."""

    async def requeue(self, lane: LaneId, states: Sequence[State], *, now: Millis) -> int:
        """Make the rows in these states ready again; returns how many there were."""
        ...

    async def release_linked(self, lane: LaneId, *, now: Millis) -> int:
        """The same for changes that waited because their target was not linked (NOT_LIVE), and is
        linked again."""
        ...


class MemberGroups(Protocol):
    """The groups of people of all connections, and which source is kept as which target."""

    async def ensure(self, lane: Lane, links: Sequence[Link], *, account: str) -> Sequence[Group]:
        """The groups of these links, targets before sources. Those that are missing are created,
        and not in use before `set_links`. `account` is the scope of addresses, see address_hash."""
        ...

    async def set_links(
        self,
        lane: Lane,
        links: Sequence[Link],
        *,
        account: str,
        fence: Fence | None = None,
        now: Millis = Millis(0),
    ) -> None:
        """Replace the links of the lane. With a `fence` only under its lease: raises StoreError
        (STORE_HELD) where another process may have put its own into use."""
        ...

    async def all(self, connection: str | None = None) -> Sequence[Group]:
        """The configured groups, of one connection or of all. Targets come before sources."""
        ...

    async def get(self, group: int) -> Group:
        """One group by its number, configured or not."""
        ...

    async def set_remote_id(self, group: int, remote_id: str, title: str, *, now: Millis) -> None:
        """Save the group's id and title on the remote side. Changes that were held because the
        remote side did not know the target are ready again."""
        ...

    async def clear_remote_id(self, group: int) -> None:
        """Forget the remote id, so that the group is looked up by its name again."""
        ...

    async def set_problem(self, group: int, problem: Problem | None, detail: str = "") -> None:
        """Save why the group cannot be read or written now; None where it can."""
        ...

    async def reset_account(self, connection: str, *, now: Millis) -> None:
        """The connection belongs to another Klaviyo account now: delete the ids, members and
        confirmed memberships of the earlier one."""
        ...


class GroupScans(Protocol):
    """Scans of groups, page by page with a cursor (guarantee 6).

    The wanted members of a target are the union of: the last complete scans of its sources, the
    joins that a platform reported since, and the people that a running scan has found. Only a
    complete scan that was applied removes members.
    """

    async def begin(self, group: int, fence: Fence, *, now: Millis) -> Group:
        """Start a scan at the first page. The pages of an unfinished one no longer count."""
        ...

    async def save_source_page(
        self,
        group: int,
        page: MembersPage,
        fence: Fence,
        *,
        requested_at: Millis,
        now: Millis,
        track_joins: bool = False,
        without_address: int = 0,
    ) -> Group:
        """Save a page of a source and its cursor. Its members are wanted from now on, unless newer
        information says otherwise. The last page completes the scan. With `track_joins` the people
        who joined are kept for SegmentJoins. Members have addresses, in lower case;
        `without_address` counts those of the page that have none."""
        ...

    async def save_target_page(
        self, group: int, page: MembersPage, fence: Fence, *, requested_at: Millis, now: Millis
    ) -> Group:
        """Save a page of a target as it is on the remote side, and its cursor. A change that was
        sent after `requested_at` is newer than the page."""
        ...

    async def pending_removals(self, source: int) -> PendingRemovals:
        """What `apply` would remove from the source's target."""
        ...

    async def apply(self, source: int, *, now: Millis, scan: int | None = None) -> int:
        """People that the last complete scan did not find are no longer wanted. Returns how many
        are removed from the target. `scan`: the one that was decided about; nothing is done where
        another one has been completed since."""
        ...


class TargetMembers(Protocol):
    """The members of one target as a set."""

    async def enable_writes(self, target: int, *, now: Millis) -> int:
        """Allow writes to the target, and close the approval of its first sync: it is used up.
        Returns how many changes were held until now."""
        ...

    async def find_manual_removals(self, target: int, *, re_add: bool, now: Millis) -> int:
        """After a complete read-back: wanted members that are missing were removed by hand. They
        are added again with `re_add`, else held. Returns how many there are now."""
        ...

    async def remove_foreign(self, target: int, *, now: Millis, scan: int | None = None) -> int:
        """Queue the removal of members that others added, where the target's link allows it.
        `scan`: the read-back that was decided about; nothing is done where another one has begun
        since."""
        ...

    async def resend_unconfirmed(self, target: int, *, now: Millis) -> int:
        """Queue again what was accepted and not confirmed, after everything else."""
        ...

    async def counts(self, target: int) -> MembershipCounts: ...


class SegmentJoins(Protocol):
    """People who joined a source, until their join actions are queued."""

    async def unhandled(self, source: int, *, limit: int) -> Sequence[Member]:
        """In the order of their addresses."""
        ...

    async def mark_handled(self, source: int, joined: Sequence[Member]) -> None:
        """These, as `unhandled` returned them. Who has joined once more since stays unhandled."""
        ...
