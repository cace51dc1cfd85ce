"""People as members of lists and tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.memberships import Group, Link
from connector.domain.records import State
from connector.ports.queues import Fence, ReceiptQueue

if TYPE_CHECKING:
    from connector.ports.platform import Member, MembersPage


@dataclass(frozen=True, slots=True)
class PendingRemovals:
    """How many people a sync would take off a target, `of` how many who should be on it."""

    count: int
    total: int


@dataclass(frozen=True, slots=True)
class MembershipCounts:
    """A target in numbers: who should be on it (`here`), who is as far as we know (`there`), in
    `both`, whose change waits to be told (`waiting`), was told and not confirmed (`unsure`), whom
    somebody took off by hand (`removed`), and whom nobody of ours put there (`foreign`)."""

    wanted: int
    actual: int
    matching: int
    pending: int
    unconfirmed: int
    removed: int
    foreign: int


class Memberships(ReceiptQueue, Protocol):
    """People as members of lists and tags: promises 5 and 6. One write of a membership is in
    flight at a time, so a leave never crosses a join; a leave is a SINGLE entry.

    Who should be on a target is the union of what its sources' last complete scans showed, of what
    was pushed since, and of whom a scan that still runs has found; only a complete scan, applied,
    makes anybody leave."""

    async def set_links(self, lane: Lane, links: Sequence[Link], *, account: str) -> None:
        """The lane's links are these from now on. `account` is where people are told apart."""
        ...

    async def groups(self, connection: str | None = None) -> Sequence[Group]:
        """Those that are configured, a target before its sources."""
        ...

    async def set_remote_id(self, group: int, remote_id: str, title: str, *, now: Millis) -> None:
        """The far end knows the group by this id; who waited for that may be told again."""
        ...

    async def clear_remote_id(self, group: int) -> None:
        """Its id is not good any more: it is looked up by its name anew."""
        ...

    async def set_problem(self, group: int, problem: Problem | None, detail: str = "") -> None:
        """Why the group cannot be read or kept now; None: it can."""
        ...

    async def begin_scan(self, group: int, fence: Fence, *, now: Millis) -> Group:
        """A scan from the start; what an unfinished one had is not counted."""
        ...

    async def stage_page(
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
        """A page of a source's scan, with its cursor: whom it names is a member now, unless a
        newer word says otherwise. The last page completes the scan. With `greets` those who
        joined are kept for `to_greet`. Members have addresses, in lower case."""
        ...

    async def read_back(
        self, group: int, page: MembersPage, fence: Fence, *, requested_at: Millis, now: Millis
    ) -> Group:
        """A page of a list as it is, with its cursor. What was told after the page was asked for
        counts more."""
        ...

    async def find_manual_removals(self, target: int, *, re_add: bool, now: Millis) -> int:
        """After a complete read-back: members who should be there and are not were taken off by
        hand, and are put back if `re_add`; returns how many of them there are now."""
        ...

    async def pending_removals(self, source: int) -> PendingRemovals:
        """What `apply` would take off the source's target."""
        ...

    async def apply_scan(self, source: int, *, now: Millis) -> int:
        """Whom the last complete scan did not find leaves; returns how many are taken off."""
        ...

    async def resend_unconfirmed(self, target: int, *, now: Millis) -> int:
        """Tell again what was taken and not confirmed, after everything else."""
        ...

    async def enable_writes(self, target: int, *, now: Millis) -> int:
        """The target may be told from now on; returns how many wait for that."""
        ...

    async def remove_foreign(self, target: int, *, now: Millis) -> int:
        """Foreign members leave."""
        ...

    async def count_members(self, target: int) -> MembershipCounts: ...

    async def unhandled_joins(self, source: int, *, limit: int) -> Sequence[Member]:
        """Who joined and was not greeted, in the order of their addresses."""
        ...

    async def mark_joins_handled(self, source: int, emails: Sequence[str]) -> None: ...

    async def requeue(self, lane: LaneId, states: Sequence[State], *, now: Millis) -> int:
        """What ended in one of these states is ready again."""
        ...

    async def reset_account(self, connection: str, *, now: Millis) -> None:
        """Klaviyo's side is another account from now on: its ids and what it was told is gone."""
        ...
