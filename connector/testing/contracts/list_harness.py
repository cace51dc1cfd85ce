"""A store with one list that is kept from audiences, for tests of memberships."""

from __future__ import annotations

from collections.abc import Sequence

from connector.domain.lanes import DeliveryMode, Lane, Millis
from connector.domain.memberships import Group, Link
from connector.domain.outcomes import Accepted, Outcome
from connector.domain.records import Claim, Page
from connector.ports import Fence, Member, MembershipCounts, MembersPage, RetryPolicy, Store
from connector.testing.contracts.store import HORIZON, NOW, record

VIP, GOLD = "vip", "gold"


def person(name: str, joined_at: int | None = None, profile_id: str | None = None) -> Member:
    since = Millis(joined_at) if joined_at else None
    return Member(f"id-{name}", f"{name}@example.com", profile_id, since)


def page(*names: str, cursor: str | None = None) -> MembersPage:
    """A page with these people; the last one where it has no cursor."""
    return MembersPage([person(name) for name in names], cursor, cursor is not None)


class ListHarness:
    """The list is named "list". `at` is the time; every step happens later than the one before."""

    def __init__(self, store: Store, lane: Lane, fence: Fence) -> None:
        self.store, self.lane, self.fence = store, lane, fence
        self.at = NOW

    def later(self, ms: int = 1_000) -> Millis:
        self.at = Millis(self.at + ms)
        return self.at

    async def group(self, name: str) -> Group:
        [found] = [g for g in await self.store.member_groups.all() if g.name == name]
        return found

    async def link(self, name: str, remote_id: str) -> None:
        """The id of a target at the remote side is found."""
        target = await self.group(name)
        await self.store.member_groups.set_remote_id(target.id, remote_id, name, now=self.later())

    async def scan(self, name: str, *people: str, end: bool = True, begin: bool = True) -> Group:
        """Scan a source of one page, or only a first page of it (`end` False)."""
        group = await self.group(name)
        if begin:
            group = await self.store.group_scans.begin(group.id, self.fence, now=self.later())
        found = page(*people, cursor=None if end else "more")
        return await self.save_source_page(group, found)

    async def save_source_page(
        self,
        group: Group,
        found: MembersPage,
        *,
        requested_at: Millis | None = None,
        track_joins: bool = False,
    ) -> Group:
        now = self.later()
        return await self.store.group_scans.save_source_page(
            group.id,
            found,
            self.fence,
            requested_at=requested_at or now,
            now=now,
            track_joins=track_joins,
        )

    async def sync(self, name: str, *people: str) -> int:
        """Scan a source and apply the scan; how many are removed from the list."""
        group = await self.scan(name, *people)
        return await self.store.group_scans.apply(group.id, now=self.later())

    async def read_back(self, *people: str) -> None:
        """Read the list back: these people are on it."""
        group = await self.group("list")
        await self.store.group_scans.begin(group.id, self.fence, now=self.later())
        await self.save_target_page(group, *people)

    async def save_target_page(
        self, group: Group, *people: str, requested_at: Millis | None = None
    ) -> None:
        members = [person(name, profile_id=f"P-{name}") for name in people]
        now = self.later()
        await self.store.group_scans.save_target_page(
            group.id,
            MembersPage(members, None, more=False),
            self.fence,
            requested_at=requested_at or now,
            now=now,
        )

    async def find_manual_removals(self, *, re_add: bool = False) -> int:
        target = await self.group("list")
        return await self.store.target_members.find_manual_removals(
            target.id, re_add=re_add, now=self.later()
        )

    async def enable_writes(self, name: str = "list") -> int:
        target = await self.group(name)
        return await self.store.target_members.enable_writes(target.id, now=self.later())

    async def counts(self) -> MembershipCounts:
        return await self.store.target_members.counts((await self.group("list")).id)

    async def claim(self, *, leaves: bool = False) -> Claim | None:
        return await self.store.memberships.claim(
            self.lane, self.fence, now=self.at, limit=100, mode=DeliveryMode(leaves), mapping=""
        )

    async def settle(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        await self.store.memberships.settle(
            claim, outcomes, now=self.later(), policy=RetryPolicy(HORIZON)
        )

    async def deliver(self) -> tuple[list[str], list[str]]:
        """Send all that is ready: the names of those who join and of those who leave."""
        sent: tuple[list[str], list[str]] = ([], [])
        for leaves in (False, True):
            while claim := await self.claim(leaves=leaves):
                sent[leaves].extend(names(claim))
                await self.settle(claim, [Accepted(e.seq, "r") for e in claim.entries])
        return sent

    async def membership_event(self, name: str, joined: bool) -> None:
        """The platform reports that a person joined or left the audience VIP."""
        events = await self.store.lanes.ensure("acme", "klaviyo", "event")
        event = record(email=f"{name}@example.com", person=f"id-{name}", membership=(VIP, joined))
        await self.store.outbox.append([Page(events, "webhook", [event], self.later())])


async def acquire_long_lease(store: Store) -> Fence:
    """A lease that outlasts every test."""
    fence = await store.leases.acquire("store", "one", now=NOW, ttl=10**9)
    assert isinstance(fence, Fence)
    return fence


def names(claim: Claim | None) -> list[str]:
    assert claim
    return sorted((e.email or "").partition("@")[0] for e in claim.entries)


async def make_harness(
    store: Store, *audiences: str, remove_foreign: bool = False, writes_enabled: bool = True
) -> ListHarness:
    lane = await store.lanes.ensure("acme", "klaviyo", "membership")
    harness = ListHarness(store, lane, await acquire_long_lease(store))
    links = [Link(audience, "list", remove_foreign) for audience in audiences or (VIP,)]
    await store.member_groups.set_links(lane, links, account="acc")
    await harness.link("list", "L1")
    if writes_enabled:
        await harness.enable_writes()
    return harness
