"""People as members of lists and tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from connector.domain.errors import Problem
from connector.domain.lanes import (
    Lane,
    LaneId,
    Millis,
)
from connector.domain.memberships import (
    Group,
    Link,
)
from connector.domain.records import (
    State,
)
from connector.ports.queues import Fence, Receipted

if TYPE_CHECKING:
    from connector.ports.platform import (
        Member,
        MembersPage,
    )


@dataclass(frozen=True, slots=True)
class Leaving:
    """How many people a sync would take off a target, `of` how many who should be on it."""

    count: int
    of: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A target in numbers: who should be on it (`here`), who is as far as we know (`there`), in
    `both`, whose change waits to be told (`waiting`), was told and not confirmed (`unsure`), whom
    somebody took off by hand (`removed`), and whom nobody of ours put there (`foreign`)."""

    here: int
    there: int
    both: int
    waiting: int
    unsure: int
    removed: int
    foreign: int


class Memberships(Receipted, Protocol):
    """People as members of lists and tags: promises 5 and 6. One write of a membership is in
    flight at a time, so a leave never crosses a join; a leave is a `solo` entry.

    Who should be on a target is the union of what its sources' last complete scans showed, of what
    was pushed since, and of whom a scan that still runs has found; only a complete scan, applied,
    makes anybody leave."""

    async def link(self, lane: Lane, links: Sequence[Link], *, account: str) -> None:
        """The lane's links are these from now on. `account` is where people are told apart."""
        ...

    async def groups(self, connection: str | None = None) -> Sequence[Group]:
        """Those that are configured, a target before its sources."""
        ...

    async def found(self, group: int, far_id: str, title: str, *, now: Millis) -> None:
        """The far end knows the group by this id; who waited for that may be told again."""
        ...

    async def lost(self, group: int) -> None:
        """Its id is not good any more: it is looked up by its name anew."""
        ...

    async def failing(self, group: int, problem: Problem | None, detail: str = "") -> None:
        """Why the group cannot be read or kept now; None: it can."""
        ...

    async def begin(self, group: int, fence: Fence, *, now: Millis) -> Group:
        """A scan from the start; what an unfinished one had is not counted."""
        ...

    async def stage(
        self,
        group: int,
        page: MembersPage,
        fence: Fence,
        *,
        asked_at: Millis,
        now: Millis,
        greets: bool = False,
        without_address: int = 0,
    ) -> Group:
        """A page of a source's scan, with its cursor: whom it names is a member now, unless a
        newer word says otherwise. The last page completes the scan. With `greets` those who
        joined are kept for `to_greet`. Members have addresses, in lower case."""
        ...

    async def read_back(
        self, group: int, page: MembersPage, fence: Fence, *, asked_at: Millis, now: Millis
    ) -> Group:
        """A page of a list as it is, with its cursor. What was told after the page was asked for
        counts more."""
        ...

    async def compare(self, target: int, *, re_add: bool, now: Millis) -> int:
        """After a complete read-back: members who should be there and are not were taken off by
        hand, and are put back if `re_add`; returns how many of them there are now."""
        ...

    async def leaving(self, source: int) -> Leaving:
        """What `apply` would take off the source's target."""
        ...

    async def apply(self, source: int, *, now: Millis) -> int:
        """Whom the last complete scan did not find leaves; returns how many are taken off."""
        ...

    async def repeat(self, target: int, *, now: Millis) -> int:
        """Tell again what was taken and not confirmed, after everything else."""
        ...

    async def open(self, target: int, *, now: Millis) -> int:
        """The target may be told from now on; returns how many wait for that."""
        ...

    async def dismiss(self, target: int, *, now: Millis) -> int:
        """Foreign members leave."""
        ...

    async def standing(self, target: int) -> Standing: ...

    async def to_greet(self, source: int, *, limit: int) -> Sequence[Member]:
        """Who joined and was not greeted, in the order of their addresses."""
        ...

    async def greeted(self, source: int, emails: Sequence[str]) -> None: ...

    async def try_again(self, lane: LaneId, states: Sequence[State], *, now: Millis) -> int:
        """What ended in one of these states is ready again."""
        ...

    async def forget_account(self, connection: str, *, now: Millis) -> None:
        """Klaviyo's side is another account from now on: its ids and what it was told is gone."""
        ...
