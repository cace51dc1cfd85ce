"""What every store must do for members of lists and tags (promises 5 and 6). Subclass it and give
it a `store` fixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, Millis
from connector.domain.memberships import Group, Link
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Observed,
    Outcome,
    Pending,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.profile_state import address_hash
from connector.domain.records import Claim, Page, State
from connector.ports import Fence, Member, MembersPage, PendingRemovals, Store
from connector.testing.contracts.profiles import (
    append_events,
    claim_reads,
    claim_writes,
    lanes,
    make_observation,
)
from connector.testing.contracts.store import HORIZON, NOW, record

VIP, GOLD = "vip", "gold"


def person(name: str, joined: int | None = None, profile: str | None = None) -> Member:
    since = Millis(joined) if joined else None
    return Member(f"id-{name}", f"{name}@example.com", profile, since)


def page(*names: str, cursor: str | None = None) -> MembersPage:
    """Whoever a page names; with a cursor it is not the last one."""
    return MembersPage([person(name) for name in names], cursor, cursor is not None)


class ListHarness:
    """A store with one list, kept from audiences."""

    def __init__(self, store: Store, lane: Lane, fence: Fence) -> None:
        self.store, self.lane, self.fence = store, lane, fence
        self.at = NOW

    def later(self, ms: int = 1_000) -> Millis:
        self.at = Millis(self.at + ms)
        return self.at

    async def group(self, name: str) -> Group:
        [found] = [g for g in await self.store.member_groups.all() if g.name == name]
        return found

    async def scan(self, name: str, *people: str, end: bool = True, begin: bool = True) -> Group:
        """A scan of one page, or the beginning of one."""
        group = await self.group(name)
        if begin:
            group = await self.store.group_scans.begin(group.id, self.fence, now=self.later())
        shown = page(*people, cursor=None if end else "more")
        requested_at = self.later()
        return await self.store.group_scans.save_source_page(
            group.id, shown, self.fence, requested_at=requested_at, now=requested_at
        )

    async def sync(self, name: str, *people: str) -> int:
        """A complete scan whose leavers leave."""
        group = await self.scan(name, *people)
        return await self.store.group_scans.apply(group.id, now=self.later())

    async def read_back_list(self, *people: str) -> None:
        """Read the list back: these people are on it."""
        group = await self.group("list")
        await self.store.group_scans.begin(group.id, self.fence, now=self.later())
        members = [person(name, profile=f"P-{name}") for name in people]
        requested_at = self.later()
        shown = MembersPage(members, None, False)
        await self.store.group_scans.save_target_page(
            group.id, shown, self.fence, requested_at=requested_at, now=requested_at
        )

    async def compare(self, *, re_add: bool = False) -> int:
        target = await self.group("list")
        return await self.store.target_members.find_manual_removals(
            target.id, re_add=re_add, now=self.later()
        )

    async def open(self) -> int:
        target = await self.group("list")
        return await self.store.target_members.enable_writes(target.id, now=self.later())

    async def claim(self, *, leaves: bool = False) -> Claim | None:
        return await self.store.memberships.claim(
            self.lane, self.fence, now=self.at, limit=100, mode=DeliveryMode(leaves), mapping=""
        )

    async def settle(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        await self.store.memberships.settle(claim, outcomes, now=self.later(), horizon=HORIZON)

    async def deliver(self) -> tuple[list[str], list[str]]:
        """Tell everything that is ready: who joins, who leaves."""
        sent: tuple[list[str], list[str]] = ([], [])
        for leaves in (False, True):
            while claim := await self.claim(leaves=leaves):
                sent[leaves].extend(names(claim))
                await self.settle(claim, [Accepted(e.seq, "r") for e in claim.entries])
        return sent


def names(claim: Claim | None) -> list[str]:
    assert claim
    return sorted((e.email or "").partition("@")[0] for e in claim.entries)


async def _fence(store: Store) -> Fence:
    fence = await store.leases.acquire("store", "one", now=NOW, ttl=10**9)
    assert isinstance(fence, Fence)
    return fence


async def make_harness(
    store: Store, *audiences: str, removes: bool = False, opened: bool = True
) -> ListHarness:
    lane = await store.lanes.ensure("acme", "klaviyo", "membership")
    made = ListHarness(store, lane, await _fence(store))
    links = [Link(audience, "list", removes) for audience in audiences or (VIP,)]
    await store.member_groups.set_links(lane, links, account="acc")
    target = await made.group("list")
    await store.member_groups.set_remote_id(target.id, "L1", "list", now=NOW)
    if opened:
        await made.open()
    return made


class MembershipsContract:
    """Each test is a sentence about every store."""

    async def test_members_are_added_as_found_and_only_once(self, store: Store) -> None:
        d = await make_harness(store)
        await d.scan(VIP, "ada", "bob", end=False)
        assert await d.deliver() == (["ada", "bob"], [])
        await d.scan(VIP, "cyd", "bob", begin=False)
        assert await d.deliver() == (["cyd"], [])
        assert await d.sync(VIP, "ada", "bob", "cyd") == 0
        assert await d.deliver() == ([], [])
        assert (await d.group(VIP)).members == 3

    async def test_an_unfinished_scan_removes_nobody(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        await d.scan(VIP, "ada", end=False)
        await store.group_scans.apply((await d.group(VIP)).id, now=d.later())
        await d.scan(VIP, end=False)
        assert await d.deliver() == ([], [])
        assert await d.sync(VIP, "ada") == 1
        assert await d.deliver() == ([], ["bob"])

    async def test_a_complete_scan_removes_nobody_until_applied(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada", "bob", "cyd")
        await d.deliver()
        group = await d.scan(VIP, "ada")
        assert await store.group_scans.pending_removals(group.id) == PendingRemovals(2, 3)
        assert await d.deliver() == ([], [])
        group = await d.scan(VIP, "ada", "bob")
        assert await store.group_scans.pending_removals(group.id) == PendingRemovals(1, 3)
        await store.group_scans.apply(group.id, now=d.later())
        assert await d.deliver() == ([], ["cyd"])

    async def test_a_restarted_scan_discards_its_earlier_pages(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        await d.scan(VIP, "bob", end=False)
        await d.sync(VIP, "ada")
        assert await d.deliver() == ([], ["bob"])

    async def test_a_list_is_the_union_of_its_audiences(self, store: Store) -> None:
        d = await make_harness(store, VIP, GOLD)
        await d.sync(VIP, "ada", "bob")
        await d.sync(GOLD, "bob", "cyd")
        assert await d.deliver() == (["ada", "bob", "cyd"], [])
        await d.sync(VIP, "ada")
        assert await d.deliver() == ([], [])
        assert await d.sync(GOLD) == 2
        assert await d.deliver() == ([], ["bob", "cyd"])

    async def test_an_unlinked_audience_does_not_count(self, store: Store) -> None:
        d = await make_harness(store, VIP, GOLD)
        await d.sync(VIP, "ada")
        await d.sync(GOLD, "cyd")
        await d.deliver()
        await store.member_groups.set_links(d.lane, [Link(VIP, "list")], account="acc")
        group = await d.scan(VIP, "ada")
        assert await store.group_scans.pending_removals(group.id) == PendingRemovals(1, 2)
        await store.group_scans.apply(group.id, now=d.later())
        assert await d.deliver() == ([], ["cyd"])

    async def test_a_leave_never_crosses_a_join(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada")
        join = await d.claim()
        await d.sync(VIP)
        assert await d.claim(leaves=True) is None
        assert join
        await d.settle(join, [Pending(join.entries[0].seq, "job", 0, "r")])
        assert await d.claim(leaves=True) is None
        await store.memberships.close_receipt(d.lane.id, "job", now=d.later(), failed={})
        assert await d.deliver() == ([], ["ada"])

    async def test_only_the_later_of_two_changes_is_sent(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada")
        await d.deliver()
        await d.sync(VIP)
        leave = await d.claim(leaves=True)
        await d.sync(VIP, "ada")
        assert await d.claim() is None
        assert leave
        await d.settle(leave, [Accepted(leave.entries[0].seq, "r")])
        assert await d.deliver() == (["ada"], [])

    async def test_a_change_reverted_before_sending_is_not_sent(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada")
        await d.sync(VIP)
        assert await d.deliver() == ([], [])
        await d.sync(VIP, "ada")
        await d.deliver()
        await d.sync(VIP)
        await d.sync(VIP, "ada")
        assert await d.deliver() == ([], [])

    async def test_a_job_settles_its_people_individually(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada", "bob")
        join = await d.claim()
        assert join
        await d.settle(join, [Pending(e.seq, "job", i, "r") for i, e in enumerate(join.entries)])
        assert await store.memberships.open_jobs() == {"job"}
        assert [(r.id, r.people) for r in await store.memberships.receipts(d.lane.id)] == [
            ("job", 2)
        ]
        failed = {1: (Problem.IMPORT_REFUSED, "bad")}
        await store.memberships.close_receipt(d.lane.id, "job", now=d.later(), failed=failed)
        standing = await store.target_members.counts((await d.group("list")).id)
        assert (standing.wanted, standing.actual, standing.pending) == (2, 1, 0)
        assert await store.memberships.requeue(d.lane.id, [State.DEAD], now=d.later()) == 1
        assert names(await d.claim()) == ["bob"]

    async def test_a_lost_job_is_resent_in_smaller_jobs(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada")
        join = await d.claim()
        assert join
        await d.settle(join, [Pending(join.entries[0].seq, "job", 0, "r")])
        await store.memberships.requeue_receipt(d.lane.id, "job", now=d.later())
        assert await d.claim() is None
        d.later(31_000)
        again = await d.claim()
        assert again
        assert orjson.loads(again.entries[0].data)["lost_jobs"] == 1

    async def test_after_a_holder_dies_joins_stay_in_flight_and_leaves_are_resent(
        self, store: Store
    ) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        await d.sync(VIP, "ada", "cyd")
        assert names(await d.claim()) == ["cyd"]
        assert names(await d.claim(leaves=True)) == ["bob"]
        assert await store.memberships.recover(d.fence, now=d.later()) == 2
        assert await store.memberships.open_jobs() == {""}
        assert await d.claim(leaves=True) is None
        d.later(31_000)
        assert names(await d.claim(leaves=True)) == ["bob"]
        assert await d.claim() is None

    async def test_a_failed_change_is_retried_until_the_horizon(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada")
        claim = await d.claim()
        assert claim
        seq = claim.entries[0].seq
        await d.settle(claim, [Retry(seq, Problem.KLAVIYO_THROTTLED, 5.0)])
        assert await d.claim() is None
        d.later(5_000)
        claim = await d.claim()
        assert claim
        assert claim.entries[0].attempts == 2
        await d.settle(claim, [Unsent(seq)])
        claim = await d.claim()
        assert claim
        assert claim.entries[0].attempts == 2
        d.later(HORIZON)
        await d.settle(claim, [Ambiguous(seq, Problem.TIMED_OUT)])
        [letter] = await store.dead_letters.groups()
        assert letter[2] == Problem.RETRIES_EXHAUSTED

    async def test_a_refused_member_is_retried_when_they_join_again(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada")
        claim = await d.claim()
        assert claim
        await d.settle(claim, [Dead(claim.entries[0].seq, Problem.KLAVIYO_REFUSED)])
        await d.sync(VIP, "ada")
        assert await d.deliver() == ([], [])
        await d.sync(VIP)
        await d.sync(VIP, "ada")
        assert await d.deliver() == (["ada"], [])

    async def test_nothing_is_sent_for_a_list_that_is_not_open(self, store: Store) -> None:
        d = await make_harness(store, opened=False)
        await d.read_back_list("bob", "eve")
        await d.sync(VIP, "ada", "bob", "cyd")
        await d.sync(VIP, "ada", "bob")
        assert await d.deliver() == ([], [])
        standing = await store.target_members.counts((await d.group("list")).id)
        assert (standing.wanted, standing.actual, standing.matching, standing.foreign) == (
            2,
            2,
            1,
            1,
        )
        assert await d.open() == 1
        assert await d.deliver() == (["ada"], [])

    async def test_only_members_added_by_the_connector_are_removed(self, store: Store) -> None:
        d = await make_harness(store, opened=False)
        await d.read_back_list("bob", "eve")
        await d.sync(VIP, "ada", "bob")
        await d.open()
        await d.deliver()
        assert await d.sync(VIP) == 1
        assert await d.deliver() == ([], ["ada"])
        await d.read_back_list("bob", "eve")
        assert await d.compare() == 0
        assert await d.deliver() == ([], [])

    async def test_foreign_members_are_removed_when_configured(self, store: Store) -> None:
        d = await make_harness(store, removes=True, opened=False)
        await d.read_back_list("bob", "eve")
        await d.sync(VIP, "ada", "bob")
        target = await d.group("list")
        assert await store.target_members.remove_foreign(target.id, now=d.later()) == 0
        await d.open()
        assert await store.target_members.remove_foreign(target.id, now=d.later()) == 1
        assert await d.deliver() == (["ada"], ["eve"])
        assert await d.sync(VIP) == 2
        assert await d.deliver() == ([], ["ada", "bob"])

    async def test_the_list_read_back_gives_ids_and_manual_removals(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada", "bob", "cyd")
        await d.deliver()
        await d.read_back_list("ada", "bob")
        assert await d.compare() == 1
        assert await d.deliver() == ([], [])
        standing = await store.target_members.counts((await d.group("list")).id)
        assert (standing.removed, standing.actual) == (1, 2)
        await d.sync(VIP, "bob", "cyd")
        leave = await d.claim(leaves=True)
        assert leave
        assert orjson.loads(leave.entries[0].data)["profile_id"] == "P-ada"
        await d.settle(leave, [Accepted(leave.entries[0].seq, "r")])
        await d.read_back_list("bob")
        assert await d.compare(re_add=True) == 1
        assert await d.deliver() == (["cyd"], [])

    async def test_a_member_removed_and_readded_manually_is_unchanged(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada")
        await d.deliver()
        await d.read_back_list()
        assert await d.compare() == 1
        await d.read_back_list("ada")
        assert await d.compare() == 0
        assert await d.sync(VIP) == 1

    async def test_a_member_readded_manually_after_our_removal_stays(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        await d.sync(VIP, "bob")
        assert await d.deliver() == ([], ["ada"])
        await d.read_back_list("ada", "bob")
        assert await d.deliver() == ([], [])
        assert await d.sync(VIP, "bob") == 0
        await d.sync(VIP, "ada", "bob")
        await d.sync(VIP, "bob")
        assert await d.deliver() == ([], [])

    async def test_a_list_page_older_than_a_write_is_ignored(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        target = await d.group("list")
        await store.group_scans.begin(target.id, d.fence, now=d.later())
        requested_at = d.later()
        await d.sync(VIP, "ada", "cyd")
        await d.deliver()
        shown = MembersPage([person("ada"), person("bob")], None, False)
        await store.group_scans.save_target_page(
            target.id, shown, d.fence, requested_at=requested_at, now=d.later()
        )
        assert await d.compare() == 0
        standing = await store.target_members.counts(target.id)
        assert (standing.actual, standing.matching, standing.foreign) == (2, 2, 0)
        await d.sync(VIP, "ada", "bob", "cyd")
        assert await d.deliver() == (["bob"], [])

    async def test_a_membership_event_is_newer_than_the_page_before_it(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        group = await d.group(VIP)
        await store.group_scans.begin(group.id, d.fence, now=d.later())
        requested_at = d.later()
        await membership_event(d, "bob", False)
        await membership_event(d, "cyd", True)
        assert await d.deliver() == (["cyd"], ["bob"])
        await store.group_scans.save_source_page(
            group.id, page("ada", "bob"), d.fence, requested_at=requested_at, now=d.later()
        )
        await store.group_scans.apply(group.id, now=d.later())
        assert await d.deliver() == ([], [])
        await d.sync(VIP, "ada", "bob")
        assert await d.deliver() == (["bob"], ["cyd"])

    async def test_a_membership_event_by_id_finds_the_persons_address(self, store: Store) -> None:
        d = await make_harness(store)
        events = await store.lanes.ensure("acme", "klaviyo", "event")
        await store.append([Page(events, "webhook", [record(person="p1")], d.later())])
        joins = record(person="p1", email=None, membership=(VIP, True))
        stranger = record(person="p2", email=None, membership=(VIP, True))
        unlinked = record(person="p1", email=None, membership=("other", True))
        await store.append([Page(events, "webhook", [joins, stranger, unlinked], d.later())])
        assert await d.deliver() == (["ada"], [])
        await store.append([Page(events, "webhook", [joins], d.later())])
        assert await d.deliver() == ([], [])
        known = record(person="p2", email="bob@example.com")
        await store.append([Page(events, "webhook", [known], d.later())])
        assert await d.deliver() == (["bob"], [])

    async def test_a_join_after_the_baseline_triggers_one_join_action(self, store: Store) -> None:
        lane = await store.lanes.ensure("acme", "jericommerce", "membership")
        d = ListHarness(store, lane, await _fence(store))
        await store.member_groups.set_links(lane, [Link("seg", "tag")], account="acc")
        seg = await d.group("seg")

        async def scan(*people: Member, greets: bool) -> list[str]:
            await store.group_scans.begin(seg.id, d.fence, now=d.later())
            shown = MembersPage(people, None, False)
            at = d.later()
            await store.group_scans.save_source_page(
                seg.id, shown, d.fence, requested_at=at, now=at, track_joins=greets
            )
            await store.group_scans.apply(seg.id, now=d.later())
            return [x.email or "" for x in await store.segment_joins.unhandled(seg.id, limit=10)]

        assert await scan(person("ada", 1), greets=False) == []
        assert await scan(person("ada", 1), person("bob", 5), greets=True) == ["bob@example.com"]
        assert await scan(person("ada", 1), person("bob", 5), greets=True) == ["bob@example.com"]
        await store.segment_joins.mark_handled(seg.id, ["bob@example.com"])
        assert await scan(person("ada", 9), person("bob", 5), greets=True) == ["ada@example.com"]
        await store.segment_joins.mark_handled(seg.id, ["ada@example.com"])
        assert await scan(person("ada", 9), greets=True) == []
        assert await scan(person("ada", 9), person("bob", 12), greets=True) == ["bob@example.com"]

    async def test_unconfirmed_changes_are_sent_again(self, store: Store) -> None:
        lane = await store.lanes.ensure("acme", "jericommerce", "membership")
        d = ListHarness(store, lane, await _fence(store))
        await store.member_groups.set_links(lane, [Link("seg", "list")], account="acc")
        await d.open()
        await d.sync("seg", "ada")
        target = await d.group("list")
        for sent in (1, 1):
            claim = await d.claim()
            assert claim
            unsure = [Accepted(e.seq, "r", confirmed=False) for e in claim.entries]
            await d.settle(claim, unsure)
            assert (await store.target_members.counts(target.id)).unconfirmed == sent
            assert await d.claim() is None
            assert await store.target_members.resend_unconfirmed(target.id, now=d.later()) == 1
        assert await d.deliver() == (["ada"], [])
        assert await store.target_members.resend_unconfirmed(target.id, now=d.later()) == 0

    async def test_shadow_mode_sends_nothing_and_keeps_all_changes(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada")
        claim = await d.claim()
        assert claim
        await d.settle(claim, [Skipped(e.seq, "shadow") for e in claim.entries])
        await d.sync(VIP, "ada")
        assert await d.claim() is None
        assert await store.memberships.requeue(d.lane.id, [State.SKIPPED], now=d.later()) == 1
        assert await d.deliver() == (["ada"], [])

    async def test_one_write_per_person_is_in_flight_across_lists(self, store: Store) -> None:
        d = await make_harness(store)
        await store.member_groups.set_links(
            d.lane, [Link(VIP, "list"), Link(GOLD, "other")], account="acc"
        )
        await store.target_members.enable_writes((await d.group("other")).id, now=d.later())
        await d.sync(VIP, "ada")
        await d.sync(GOLD, "ada", "bob")
        first = await d.claim()
        assert names(first) == ["ada"]
        assert names(await d.claim()) == ["bob"]
        assert first
        await d.settle(first, [Accepted(e.seq, "r") for e in first.entries])
        assert names(await d.claim()) == ["ada"]

    async def test_a_profile_is_not_written_while_a_list_join_is_in_flight(
        self, store: Store
    ) -> None:
        d = await make_harness(store)
        _, _, profiles = await lanes(store)
        await append_events(store, "ada", at=d.later())
        reads = await claim_reads(store, d.fence, d.later())
        assert reads
        [who] = [entry.seq for entry in reads.entries]
        shown = make_observation(who, "ada", d.at, profiles.id, balance=1)
        shown = replace(shown, address=address_hash("acc", "ada@example.com"))
        await d.sync(VIP, "ada")
        join = await d.claim()
        assert join
        await store.reads.settle(reads, [Observed(who, shown)], now=d.later(), horizon=HORIZON)
        assert await claim_writes(store, d.fence, d.at) is None
        assert (await store.reads.fresh_views([who]))[who].write_in_flight
        await d.settle(join, [Accepted(e.seq, "r") for e in join.entries])
        assert not (await store.reads.fresh_views([who]))[who].write_in_flight
        assert await claim_writes(store, d.fence, d.at)
        await store.member_groups.set_links(
            d.lane, [Link(VIP, "list"), Link(GOLD, "other")], account="acc"
        )
        await store.target_members.enable_writes((await d.group("other")).id, now=d.later())
        await d.sync(GOLD, "ada")
        assert await d.claim() is None

    async def test_a_new_account_starts_empty(self, store: Store) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada")
        await d.deliver()
        await store.member_groups.reset_account("acme", now=d.later())
        assert (await d.group("list")).remote_id is None
        await d.open()
        await d.sync(VIP, "ada")
        assert await d.deliver() == (["ada"], [])

    async def test_an_erased_person_is_in_no_group_and_is_not_added_again(
        self, store: Store
    ) -> None:
        d = await make_harness(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        await d.read_back_list("ada", "bob")
        gone = await store.erasure.forget("acme", "id-ada", now=d.later())
        assert (gone.people, list(gone.emails), gone.rows) == (1, ["ada@example.com"], 2)
        await d.sync(VIP, "ada", "bob")
        await d.read_back_list("ada", "bob")
        assert await d.deliver() == ([], [])
        standing = await store.target_members.counts((await d.group("list")).id)
        assert (standing.wanted, standing.actual) == (1, 1)

    async def test_a_group_that_cannot_be_read_reports_why(self, store: Store) -> None:
        d = await make_harness(store)
        group = await d.group(VIP)
        await store.member_groups.set_problem(group.id, Problem.GROUP_NOT_FOUND, "no such audience")
        group = await d.group(VIP)
        assert (group.problem, group.detail) == (Problem.GROUP_NOT_FOUND, "no such audience")
        await store.member_groups.set_problem(group.id, None)
        assert (await d.group(VIP)).problem is None


async def membership_event(d: ListHarness, name: str, joined: bool) -> None:
    events = await d.store.lanes.ensure("acme", "klaviyo", "event")
    said = record(email=f"{name}@example.com", person=f"id-{name}", membership=(VIP, joined))
    await d.store.append([Page(events, "webhook", [said], d.later())])
