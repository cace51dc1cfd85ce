"""What every store must do for members of lists and tags (guarantees 5 and 6). Subclass it and give
it a `store` fixture."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.memberships import Link
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Observed,
    Pending,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.profile_state import address_hash
from connector.domain.records import Page, State
from connector.ports import Member, MembersPage, PendingRemovals, RetryPolicy, Store
from connector.testing.contracts.list_harness import (
    GOLD,
    VIP,
    ListHarness,
    acquire_long_lease,
    make_harness,
    names,
    page,
    person,
)
from connector.testing.contracts.profile_harness import (
    append_events,
    claim_reads,
    claim_writes,
    make_observation,
    profile_lane,
)
from connector.testing.contracts.store import HORIZON, record


class MembershipsContract:
    """Each test is a statement about every store."""

    async def test_members_are_added_as_found_and_only_once(self, store: Store) -> None:
        env = await make_harness(store)
        await env.scan(VIP, "ada", "bob", end=False)
        assert await env.deliver() == (["ada", "bob"], [])
        await env.scan(VIP, "cyd", "bob", begin=False)
        assert await env.deliver() == (["cyd"], [])
        assert await env.sync(VIP, "ada", "bob", "cyd") == 0
        assert await env.deliver() == ([], [])
        assert (await env.group(VIP)).members == 3

    async def test_an_unfinished_scan_removes_no_one(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob")
        await env.deliver()
        await env.scan(VIP, "ada", end=False)
        await store.group_scans.apply((await env.group(VIP)).id, now=env.later())
        await env.scan(VIP, end=False)
        assert await env.deliver() == ([], [])
        assert await env.sync(VIP, "ada") == 1
        assert await env.deliver() == ([], ["bob"])

    async def test_a_complete_scan_removes_no_one_until_applied(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob", "cyd")
        await env.deliver()
        group = await env.scan(VIP, "ada")
        assert await store.group_scans.pending_removals(group.id) == PendingRemovals(2, 3)
        assert await env.deliver() == ([], [])
        group = await env.scan(VIP, "ada", "bob")
        assert await store.group_scans.pending_removals(group.id) == PendingRemovals(1, 3)
        await store.group_scans.apply(group.id, now=env.later())
        assert await env.deliver() == ([], ["cyd"])

    async def test_who_is_being_added_counts_as_a_member_to_remove(self, store: Store) -> None:
        """A join that is in flight adds the person, and the leave follows it."""
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob", "cyd")
        joins = await env.claim()
        assert joins
        group = await env.scan(VIP, "ada")
        assert await store.group_scans.pending_removals(group.id) == PendingRemovals(2, 3)
        await env.settle(joins, [Unsent(entry.seq) for entry in joins.entries])
        assert await store.group_scans.pending_removals(group.id) == PendingRemovals(0, 3)
        joins = await env.claim()
        assert joins
        await store.group_scans.apply(group.id, now=env.later())
        await env.settle(joins, [Accepted(entry.seq, "r") for entry in joins.entries])
        assert await env.deliver() == ([], ["bob", "cyd"])

    async def test_a_restarted_scan_discards_its_earlier_pages(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob")
        await env.deliver()
        await env.scan(VIP, "bob", end=False)
        await env.sync(VIP, "ada")
        assert await env.deliver() == ([], ["bob"])

    async def test_a_list_is_the_union_of_its_audiences(self, store: Store) -> None:
        env = await make_harness(store, VIP, GOLD)
        await env.sync(VIP, "ada", "bob")
        await env.sync(GOLD, "bob", "cyd")
        assert await env.deliver() == (["ada", "bob", "cyd"], [])
        await env.sync(VIP, "ada")
        assert await env.deliver() == ([], [])
        assert await env.sync(GOLD) == 2
        assert await env.deliver() == ([], ["bob", "cyd"])

    async def test_groups_are_known_before_their_links_are_used(self, store: Store) -> None:
        """By a process that waits for the one that works with its own links."""
        env = await make_harness(store, VIP)
        links = [Link(GOLD, "list", remove_foreign=True), Link(VIP, "list")]
        found = await store.member_groups.ensure(env.lane, links, account="other")
        assert [(group.kind, group.name) for group in found] == [
            ("list", "list"),
            ("audience", VIP),
            ("audience", GOLD),
        ]
        assert {group.target for group in found[1:]} == {found[0].id}
        assert await store.member_groups.all("acme") == found[:2]
        await store.member_groups.set_links(env.lane, links, account="other")
        assert await store.member_groups.all("acme") == found

    async def test_an_unlinked_audience_does_not_count(self, store: Store) -> None:
        env = await make_harness(store, VIP, GOLD)
        await env.sync(VIP, "ada")
        await env.sync(GOLD, "cyd")
        await env.deliver()
        await store.member_groups.set_links(env.lane, [Link(VIP, "list")], account="acc")
        group = await env.scan(VIP, "ada")
        assert await store.group_scans.pending_removals(group.id) == PendingRemovals(1, 2)
        await store.group_scans.apply(group.id, now=env.later())
        assert await env.deliver() == ([], ["cyd"])

    async def test_a_scan_of_an_audience_that_was_unlinked_meanwhile_removes_no_one(
        self, store: Store
    ) -> None:
        """A process with another configuration has replaced the links."""
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob")
        await env.deliver()
        source = await env.group(VIP)
        await env.scan(VIP, "ada", "bob")
        await store.member_groups.set_links(env.lane, [], account="acc")
        assert await store.group_scans.pending_removals(source.id) == PendingRemovals(0, 2)
        assert await store.group_scans.apply(source.id, now=env.later()) == 0
        assert await env.deliver() == ([], [])

    async def test_a_leave_never_crosses_a_join(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        join = await env.claim()
        await env.sync(VIP)
        assert await env.claim(leaves=True) is None
        assert join
        await env.settle(join, [Pending(join.entries[0].seq, "job", 0, "r")])
        assert await env.claim(leaves=True) is None
        await store.membership_receipts.close_receipt(
            env.lane.id, "job", now=env.later(), failed={}
        )
        assert await env.deliver() == ([], ["ada"])

    async def test_nothing_is_sent_to_a_list_while_its_id_is_looked_up(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        target = (await env.group("list")).id
        await store.member_groups.clear_remote_id(target)
        assert await env.claim() is None
        await env.link("list", "L1")
        assert await env.deliver() == (["ada"], [])

    @pytest.mark.parametrize("leaves", [True, False])
    async def test_after_an_ambiguous_change_nothing_is_sent_before_it_can_no_longer_be_applied(
        self, store: Store, leaves: bool
    ) -> None:
        """Also where new information reverses the change meanwhile (guarantee 5)."""
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        if leaves:
            await env.deliver()
            await env.sync(VIP)
        change = await env.claim(leaves=leaves)
        assert change
        await env.settle(change, [Ambiguous(change.entries[0].seq, Problem.TIMED_OUT)])
        await env.membership_event("ada", leaves)
        assert await env.deliver() == ([], [])
        # The list still shows what it was before the change was applied.
        await env.read_back(*(["ada"] if leaves else []))
        assert await env.find_manual_removals() == 0
        assert await env.sync(VIP, *(["ada"] if leaves else [])) in (0, 1)
        assert await env.deliver() == ([], [])
        env.later(31_000)
        assert await env.deliver() == ((["ada"], []) if leaves else ([], ["ada"]))

    async def test_a_change_that_failed_for_too_long_may_still_be_applied(
        self, store: Store
    ) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        await env.deliver()
        await env.sync(VIP)
        for _ in range(2):
            leave = await env.claim(leaves=True)
            assert leave
            await env.settle(leave, [Ambiguous(leave.entries[0].seq, Problem.TIMED_OUT)])
            env.later(HORIZON)
        leave = await env.claim(leaves=True)
        assert leave is None
        env.at = Millis(env.at - HORIZON + 2_000)
        await env.membership_event("ada", True)
        assert await env.deliver() == ([], [])
        env.later(31_000)
        assert await env.deliver() == (["ada"], [])

    async def test_only_the_later_of_two_changes_is_sent(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        await env.deliver()
        await env.sync(VIP)
        leave = await env.claim(leaves=True)
        await env.sync(VIP, "ada")
        assert await env.claim() is None
        assert leave
        await env.settle(leave, [Accepted(leave.entries[0].seq, "r")])
        assert await env.deliver() == (["ada"], [])

    async def test_a_change_reverted_before_sending_is_not_sent(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        await env.sync(VIP)
        assert await env.deliver() == ([], [])
        await env.sync(VIP, "ada")
        await env.deliver()
        await env.sync(VIP)
        await env.sync(VIP, "ada")
        assert await env.deliver() == ([], [])

    async def test_a_job_settles_its_people_individually(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob")
        join = await env.claim()
        assert join
        await env.settle(join, [Pending(e.seq, "job", i, "r") for i, e in enumerate(join.entries)])
        assert await store.membership_receipts.open_jobs() == {"job"}
        assert [
            (r.id, r.people) for r in await store.membership_receipts.open_receipts(env.lane.id)
        ] == [("job", 2)]
        failed = {1: (Problem.IMPORT_REFUSED, "bad")}
        await store.membership_receipts.close_receipt(
            env.lane.id, "job", now=env.later(), failed=failed
        )
        counts = await env.counts()
        assert (counts.wanted, counts.actual, counts.pending) == (2, 1, 0)
        assert await store.memberships.requeue(env.lane.id, [State.DEAD], now=env.later()) == 1
        assert names(await env.claim()) == ["bob"]

    async def test_a_lost_job_is_resent_in_smaller_jobs(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        join = await env.claim()
        assert join
        await env.settle(join, [Pending(join.entries[0].seq, "job", 0, "r")])
        await store.membership_receipts.requeue_receipt(env.lane.id, "job", now=env.later())
        assert await env.claim() is None
        env.later(31_000)
        again = await env.claim()
        assert again
        assert orjson.loads(again.entries[0].data)["lost_jobs"] == 1

    async def test_after_a_holder_dies_joins_stay_in_flight_and_leaves_are_resent(
        self, store: Store
    ) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob")
        await env.deliver()
        await env.sync(VIP, "ada", "cyd")
        assert names(await env.claim()) == ["cyd"]
        assert names(await env.claim(leaves=True)) == ["bob"]
        assert await store.memberships.recover(env.fence, now=env.later()) == 2
        [receipt] = await store.membership_receipts.open_receipts(env.lane.id)
        assert receipt.is_unknown
        assert await env.claim(leaves=True) is None
        env.later(31_000)
        assert names(await env.claim(leaves=True)) == ["bob"]
        assert await env.claim() is None

    async def test_a_failed_change_is_retried_until_the_horizon(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        claim = await env.claim()
        assert claim
        seq = claim.entries[0].seq
        await env.settle(claim, [Retry(seq, Problem.KLAVIYO_THROTTLED, 5.0)])
        assert await env.claim() is None
        env.later(5_000)
        claim = await env.claim()
        assert claim
        assert claim.entries[0].attempts == 2
        await env.settle(claim, [Unsent(seq)])
        claim = await env.claim()
        assert claim
        assert claim.entries[0].attempts == 2
        env.later(HORIZON)
        await env.settle(claim, [Ambiguous(seq, Problem.TIMED_OUT)])
        [letter] = await store.dead_letters.groups()
        assert letter.problem == Problem.RETRIES_EXHAUSTED

    async def test_a_refused_member_is_retried_when_they_join_again(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        claim = await env.claim()
        assert claim
        await env.settle(claim, [Dead(claim.entries[0].seq, Problem.KLAVIYO_REFUSED)])
        await env.sync(VIP, "ada")
        assert await env.deliver() == ([], [])
        await env.sync(VIP)
        await env.sync(VIP, "ada")
        assert await env.deliver() == (["ada"], [])

    async def test_nothing_is_sent_for_a_list_that_is_not_open(self, store: Store) -> None:
        env = await make_harness(store, writes_enabled=False)
        await env.read_back("bob", "eve")
        await env.sync(VIP, "ada", "bob", "cyd")
        await env.sync(VIP, "ada", "bob")
        assert await env.deliver() == ([], [])
        counts = await env.counts()
        assert (counts.wanted, counts.actual, counts.matching, counts.foreign) == (
            2,
            2,
            1,
            1,
        )
        assert await env.enable_writes() == 1
        assert await env.deliver() == (["ada"], [])

    async def test_only_members_added_by_the_connector_are_removed(self, store: Store) -> None:
        env = await make_harness(store, writes_enabled=False)
        await env.read_back("bob", "eve")
        await env.sync(VIP, "ada", "bob")
        await env.enable_writes()
        await env.deliver()
        assert await env.sync(VIP) == 1
        assert await env.deliver() == ([], ["ada"])
        await env.read_back("bob", "eve")
        assert await env.find_manual_removals() == 0
        assert await env.deliver() == ([], [])

    async def test_foreign_members_are_removed_when_configured(self, store: Store) -> None:
        env = await make_harness(store, remove_foreign=True, writes_enabled=False)
        await env.read_back("bob", "eve")
        await env.sync(VIP, "ada", "bob")
        target = await env.group("list")
        assert await store.target_members.remove_foreign(target.id, now=env.later()) == 0
        await env.enable_writes()
        assert await store.target_members.remove_foreign(target.id, now=env.later()) == 1
        assert await env.deliver() == (["ada"], ["eve"])
        assert await env.sync(VIP) == 2
        assert await env.deliver() == ([], ["ada", "bob"])

    async def test_the_list_read_back_gives_ids_and_manual_removals(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob", "cyd")
        await env.deliver()
        await env.read_back("ada", "bob")
        assert await env.find_manual_removals() == 1
        assert await env.deliver() == ([], [])
        counts = await env.counts()
        assert (counts.removed, counts.actual) == (1, 2)
        await env.sync(VIP, "bob", "cyd")
        leave = await env.claim(leaves=True)
        assert leave
        assert orjson.loads(leave.entries[0].data)["profile_id"] == "P-ada"
        await env.settle(leave, [Accepted(leave.entries[0].seq, "r")])
        await env.read_back("bob")
        assert await env.find_manual_removals(re_add=True) == 1
        assert await env.deliver() == (["cyd"], [])

    async def test_a_member_removed_and_readded_manually_is_unchanged(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        await env.deliver()
        await env.read_back()
        assert await env.find_manual_removals() == 1
        await env.read_back("ada")
        assert await env.find_manual_removals() == 0
        assert await env.sync(VIP) == 1

    async def test_a_member_readded_manually_after_our_removal_stays(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob")
        await env.deliver()
        await env.sync(VIP, "bob")
        assert await env.deliver() == ([], ["ada"])
        await env.read_back("ada", "bob")
        assert await env.deliver() == ([], [])
        assert await env.sync(VIP, "bob") == 0
        await env.sync(VIP, "ada", "bob")
        await env.sync(VIP, "bob")
        assert await env.deliver() == ([], [])

    async def test_a_list_page_older_than_a_write_is_ignored(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob")
        await env.deliver()
        target = await env.group("list")
        await store.group_scans.begin(target.id, env.fence, now=env.later())
        requested_at = env.later()
        await env.sync(VIP, "ada", "cyd")
        await env.deliver()
        await env.save_target_page(target, "ada", "bob", requested_at=requested_at)
        assert await env.find_manual_removals() == 0
        counts = await env.counts()
        assert (counts.actual, counts.matching, counts.foreign) == (2, 2, 0)
        await env.sync(VIP, "ada", "bob", "cyd")
        assert await env.deliver() == (["bob"], [])

    async def test_a_membership_event_is_newer_than_the_page_before_it(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob")
        await env.deliver()
        group = await env.group(VIP)
        await store.group_scans.begin(group.id, env.fence, now=env.later())
        requested_at = env.later()
        await env.membership_event("bob", False)
        await env.membership_event("cyd", True)
        assert await env.deliver() == (["cyd"], ["bob"])
        await env.save_source_page(group, page("ada", "bob"), requested_at=requested_at)
        await store.group_scans.apply(group.id, now=env.later())
        assert await env.deliver() == ([], [])
        await env.sync(VIP, "ada", "bob")
        assert await env.deliver() == (["bob"], ["cyd"])

    async def test_a_membership_event_by_id_finds_the_persons_address(self, store: Store) -> None:
        env = await make_harness(store)
        events = await store.lanes.ensure("acme", "klaviyo", "event")
        await store.outbox.append([Page(events, "webhook", [record(person="p1")], env.later())])
        joins = record(person="p1", email=None, membership=(VIP, True))
        stranger = record(person="p2", email=None, membership=(VIP, True))
        unlinked = record(person="p1", email=None, membership=("other", True))
        await store.outbox.append(
            [Page(events, "webhook", [joins, stranger, unlinked], env.later())]
        )
        assert await env.deliver() == (["ada"], [])
        await store.outbox.append([Page(events, "webhook", [joins], env.later())])
        assert await env.deliver() == ([], [])
        known = record(person="p2", email="bob@example.com")
        await store.outbox.append([Page(events, "webhook", [known], env.later())])
        assert await env.deliver() == (["bob"], [])

    async def test_a_join_after_the_baseline_triggers_one_join_action(self, store: Store) -> None:
        lane = await store.lanes.ensure("acme", "jericommerce", "membership")
        env = ListHarness(store, lane, await acquire_long_lease(store))
        await store.member_groups.set_links(lane, [Link("seg", "tag")], account="acc")
        seg = await env.group("seg")

        async def scan(*people: Member, track_joins: bool) -> list[str]:
            await store.group_scans.begin(seg.id, env.fence, now=env.later())
            found = MembersPage(people, None, more=False)
            await env.save_source_page(seg, found, track_joins=track_joins)
            await store.group_scans.apply(seg.id, now=env.later())
            return [x.email or "" for x in await store.segment_joins.unhandled(seg.id, limit=10)]

        assert await scan(person("ada", 1), track_joins=False) == []
        assert await scan(person("ada", 1), person("bob", 5), track_joins=True) == [
            "bob@example.com"
        ]
        assert await scan(person("ada", 1), person("bob", 5), track_joins=True) == [
            "bob@example.com"
        ]
        await store.segment_joins.mark_handled(seg.id, [person("bob", 5)])
        assert await scan(person("ada", 9), person("bob", 5), track_joins=True) == [
            "ada@example.com"
        ]
        await store.segment_joins.mark_handled(seg.id, [person("ada", 9)])
        assert await scan(person("ada", 9), track_joins=True) == []
        assert await scan(person("ada", 9), person("bob", 12), track_joins=True) == [
            "bob@example.com"
        ]

    async def test_unconfirmed_changes_are_sent_again(self, store: Store) -> None:
        lane = await store.lanes.ensure("acme", "jericommerce", "membership")
        env = ListHarness(store, lane, await acquire_long_lease(store))
        await store.member_groups.set_links(lane, [Link("seg", "list")], account="acc")
        await env.enable_writes()
        await env.sync("seg", "ada")
        target = await env.group("list")
        for sent in (1, 1):
            claim = await env.claim()
            assert claim
            await env.settle(claim, [Accepted(e.seq, "r", confirmed=False) for e in claim.entries])
            assert (await store.target_members.counts(target.id)).unconfirmed == sent
            assert await env.claim() is None
            assert await store.target_members.resend_unconfirmed(target.id, now=env.later()) == 1
        assert await env.deliver() == (["ada"], [])
        assert await store.target_members.resend_unconfirmed(target.id, now=env.later()) == 0

    async def test_shadow_mode_sends_nothing_and_keeps_all_changes(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        claim = await env.claim()
        assert claim
        await env.settle(claim, [Skipped(e.seq, "shadow") for e in claim.entries])
        await env.sync(VIP, "ada")
        assert await env.claim() is None
        assert await store.memberships.requeue(env.lane.id, [State.SKIPPED], now=env.later()) == 1
        assert await env.deliver() == (["ada"], [])

    async def test_changes_of_an_unlinked_list_wait_until_it_is_linked_again(
        self, store: Store
    ) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob")
        await env.deliver()
        await env.sync(VIP, "ada", "cyd")
        groups, queue = store.member_groups, store.memberships
        await groups.set_links(env.lane, [Link(GOLD, "other")], account="acc")
        assert await env.claim() is None
        assert await queue.release_linked(env.lane.id, now=env.later()) == 0
        assert await env.deliver() == ([], [])
        await groups.set_links(env.lane, [Link(VIP, "list")], account="acc")
        assert await queue.release_linked(env.lane.id, now=env.later()) == 2
        assert await env.deliver() == (["cyd"], ["bob"])

    async def test_one_write_per_person_is_in_flight_across_lists(self, store: Store) -> None:
        env = await make_harness(store)
        await store.member_groups.set_links(
            env.lane, [Link(VIP, "list"), Link(GOLD, "other")], account="acc"
        )
        await env.link("other", "L2")
        await env.enable_writes("other")
        await env.sync(VIP, "ada")
        await env.sync(GOLD, "ada", "bob")
        first = await env.claim()
        assert names(first) == ["ada"]
        assert names(await env.claim()) == ["bob"]
        assert first
        await env.settle(first, [Accepted(e.seq, "r") for e in first.entries])
        assert names(await env.claim()) == ["ada"]

    async def test_a_profile_is_not_written_while_a_list_join_is_in_flight(
        self, store: Store
    ) -> None:
        env = await make_harness(store)
        profiles = await profile_lane(store)
        await append_events(store, "ada", at=env.later())
        reads = await claim_reads(store, env.fence, env.later())
        assert reads
        [ada] = [entry.seq for entry in reads.entries]
        observation = make_observation(ada, "ada", env.at, profiles.id, balance=1)
        observation = replace(observation, address=address_hash("acc", "ada@example.com"))
        await env.sync(VIP, "ada")
        join = await env.claim()
        assert join
        await store.reads.settle(
            reads, [Observed(ada, observation)], now=env.later(), policy=RetryPolicy(HORIZON)
        )
        assert await claim_writes(store, env.fence, env.at) is None
        assert (await store.reads.fresh_views([ada]))[ada].write_in_flight
        await env.settle(join, [Accepted(e.seq, "r") for e in join.entries])
        assert not (await store.reads.fresh_views([ada]))[ada].write_in_flight
        assert await claim_writes(store, env.fence, env.at)
        await store.member_groups.set_links(
            env.lane, [Link(VIP, "list"), Link(GOLD, "other")], account="acc"
        )
        await env.enable_writes("other")
        await env.sync(GOLD, "ada")
        assert await env.claim() is None

    async def test_a_new_account_starts_empty(self, store: Store) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada")
        await env.deliver()
        await store.member_groups.reset_account("acme", now=env.later())
        assert (await env.group("list")).remote_id is None
        await env.link("list", "L2")
        await env.enable_writes()
        await env.sync(VIP, "ada")
        assert await env.deliver() == (["ada"], [])

    async def test_a_scan_that_a_new_account_ended_saves_no_page(self, store: Store) -> None:
        env = await make_harness(store)
        group = await env.scan(VIP, "ada", end=False)
        await store.member_groups.reset_account("acme", now=env.later())
        with pytest.raises(RuntimeError):
            await env.save_source_page(group, page("bob"))
        group = await env.group(VIP)
        assert (group.completed_scan, group.cursor) == (0, None)

    async def test_an_erased_person_is_in_no_group_and_is_not_added_again(
        self, store: Store
    ) -> None:
        env = await make_harness(store)
        await env.sync(VIP, "ada", "bob")
        await env.deliver()
        await env.read_back("ada", "bob")
        gone = await store.erasure.forget("acme", "id-ada", now=env.later())
        assert (gone.people, list(gone.emails), gone.rows) == (1, ["ada@example.com"], 2)
        await env.sync(VIP, "ada", "bob")
        await env.read_back("ada", "bob")
        assert await env.deliver() == ([], [])
        counts = await env.counts()
        assert (counts.wanted, counts.actual) == (1, 1)

    async def test_a_group_that_cannot_be_read_reports_why(self, store: Store) -> None:
        env = await make_harness(store)
        group = await env.group(VIP)
        await store.member_groups.set_problem(group.id, Problem.GROUP_NOT_FOUND, "no such audience")
        group = await env.group(VIP)
        assert (group.problem, group.detail) == (Problem.GROUP_NOT_FOUND, "no such audience")
        await store.member_groups.set_problem(group.id, None)
        assert (await env.group(VIP)).problem is None
