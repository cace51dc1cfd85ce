"""What every store must do for members of lists and tags (promises 5 and 6). Subclass it and give
it a `store` fixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import orjson

from connector.domain.errors import Problem
from connector.domain.lanes import (
    Lane,
    Millis,
)
from connector.domain.memberships import (
    Group,
    Link,
)
from connector.domain.outcomes import (
    Accepted,
    Dead,
    Doubt,
    Observed,
    Outcome,
    Pending,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.profile_state import address_of
from connector.domain.records import (
    Claim,
    Page,
    State,
)
from connector.ports import Fence, Leaving, Member, MembersPage, Store
from connector.testing.contracts.profiles import claim_reads, claim_writes, happen, lanes, seen
from connector.testing.contracts.store import HORIZON, NOW, record

VIP, GOLD = "vip", "gold"


def person(name: str, joined: int | None = None, profile: str | None = None) -> Member:
    since = Millis(joined) if joined else None
    return Member(f"id-{name}", f"{name}@example.com", profile, since)


def page(*names: str, cursor: str | None = None) -> MembersPage:
    """Whoever a page names; with a cursor it is not the last one."""
    return MembersPage([person(name) for name in names], cursor, cursor is not None)


class Desk:
    """A store with one list, kept from audiences."""

    def __init__(self, store: Store, lane: Lane, fence: Fence) -> None:
        self.store, self.lane, self.fence = store, lane, fence
        self.at = NOW

    def later(self, ms: int = 1_000) -> Millis:
        self.at = Millis(self.at + ms)
        return self.at

    async def group(self, name: str) -> Group:
        [found] = [g for g in await self.store.memberships.groups() if g.name == name]
        return found

    async def scan(self, name: str, *people: str, end: bool = True, begin: bool = True) -> Group:
        """A scan of one page, or the beginning of one."""
        group, m = await self.group(name), self.store.memberships
        if begin:
            group = await m.begin(group.id, self.fence, now=self.later())
        shown = page(*people, cursor=None if end else "more")
        asked = self.later()
        return await m.stage(group.id, shown, self.fence, asked_at=asked, now=asked)

    async def sync(self, name: str, *people: str) -> int:
        """A complete scan whose leavers leave."""
        group = await self.scan(name, *people)
        return await self.store.memberships.apply(group.id, now=self.later())

    async def look(self, *people: str) -> None:
        """Read the list back: these people are on it."""
        group, m = await self.group("list"), self.store.memberships
        await m.begin(group.id, self.fence, now=self.later())
        members = [person(name, profile=f"P-{name}") for name in people]
        asked = self.later()
        shown = MembersPage(members, None, False)
        await m.read_back(group.id, shown, self.fence, asked_at=asked, now=asked)

    async def compare(self, *, re_add: bool = False) -> int:
        target = await self.group("list")
        return await self.store.memberships.compare(target.id, re_add=re_add, now=self.later())

    async def open(self) -> int:
        target = await self.group("list")
        return await self.store.memberships.open(target.id, now=self.later())

    async def claim(self, *, leaves: bool = False) -> Claim | None:
        return await self.store.memberships.claim(
            self.lane, self.fence, now=self.at, limit=100, solo=leaves, mapping=""
        )

    async def settle(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        await self.store.memberships.settle(claim, outcomes, now=self.later(), horizon=HORIZON)

    async def deliver(self) -> tuple[list[str], list[str]]:
        """Tell everything that is ready: who joins, who leaves."""
        told: tuple[list[str], list[str]] = ([], [])
        for leaves in (False, True):
            while claim := await self.claim(leaves=leaves):
                told[leaves].extend(names(claim))
                await self.settle(claim, [Accepted(e.seq, "r") for e in claim.entries])
        return told


def names(claim: Claim | None) -> list[str]:
    assert claim
    return sorted((e.email or "").partition("@")[0] for e in claim.entries)


async def _fence(store: Store) -> Fence:
    fence = await store.leases.acquire("store", "one", now=NOW, ttl=10**9)
    assert isinstance(fence, Fence)
    return fence


async def desk(store: Store, *audiences: str, removes: bool = False, opened: bool = True) -> Desk:
    lane = await store.lanes.ensure("acme", "klaviyo", "membership")
    made = Desk(store, lane, await _fence(store))
    links = [Link(audience, "list", removes) for audience in audiences or (VIP,)]
    await store.memberships.link(lane, links, account="acc")
    target = await made.group("list")
    await store.memberships.found(target.id, "L1", "list", now=NOW)
    if opened:
        await made.open()
    return made


class MembershipsContract:
    """Each test is a sentence about every store."""

    async def test_members_join_as_they_are_found_and_only_once(self, store: Store) -> None:
        d = await desk(store)
        await d.scan(VIP, "ada", "bob", end=False)
        assert await d.deliver() == (["ada", "bob"], [])
        await d.scan(VIP, "cyd", "bob", begin=False)
        assert await d.deliver() == (["cyd"], [])
        assert await d.sync(VIP, "ada", "bob", "cyd") == 0
        assert await d.deliver() == ([], [])
        assert (await d.group(VIP)).members == 3

    async def test_an_unfinished_scan_removes_nobody(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        await d.scan(VIP, "ada", end=False)
        await store.memberships.apply((await d.group(VIP)).id, now=d.later())
        await d.scan(VIP, end=False)
        assert await d.deliver() == ([], [])
        assert await d.sync(VIP, "ada") == 1
        assert await d.deliver() == ([], ["bob"])

    async def test_a_complete_scan_removes_nobody_before_it_is_applied(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada", "bob", "cyd")
        await d.deliver()
        group = await d.scan(VIP, "ada")
        assert await store.memberships.leaving(group.id) == Leaving(2, 3)
        assert await d.deliver() == ([], [])
        group = await d.scan(VIP, "ada", "bob")
        assert await store.memberships.leaving(group.id) == Leaving(1, 3)
        await store.memberships.apply(group.id, now=d.later())
        assert await d.deliver() == ([], ["cyd"])

    async def test_a_scan_that_is_begun_anew_forgets_what_it_had_seen(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        await d.scan(VIP, "bob", end=False)
        await d.sync(VIP, "ada")
        assert await d.deliver() == ([], ["bob"])

    async def test_a_list_is_the_union_of_its_audiences(self, store: Store) -> None:
        d = await desk(store, VIP, GOLD)
        await d.sync(VIP, "ada", "bob")
        await d.sync(GOLD, "bob", "cyd")
        assert await d.deliver() == (["ada", "bob", "cyd"], [])
        await d.sync(VIP, "ada")
        assert await d.deliver() == ([], [])
        assert await d.sync(GOLD) == 2
        assert await d.deliver() == ([], ["bob", "cyd"])

    async def test_an_audience_that_is_no_longer_linked_does_not_count(self, store: Store) -> None:
        d = await desk(store, VIP, GOLD)
        await d.sync(VIP, "ada")
        await d.sync(GOLD, "cyd")
        await d.deliver()
        await store.memberships.link(d.lane, [Link(VIP, "list")], account="acc")
        group = await d.scan(VIP, "ada")
        assert await store.memberships.leaving(group.id) == Leaving(1, 2)
        await store.memberships.apply(group.id, now=d.later())
        assert await d.deliver() == ([], ["cyd"])

    async def test_a_leave_never_crosses_a_join(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada")
        join = await d.claim()
        await d.sync(VIP)
        assert await d.claim(leaves=True) is None
        assert join
        await d.settle(join, [Pending(join.entries[0].seq, "job", 0, "r")])
        assert await d.claim(leaves=True) is None
        await store.memberships.close_receipt(d.lane.id, "job", now=d.later(), failed={})
        assert await d.deliver() == ([], ["ada"])

    async def test_the_later_of_two_changes_is_what_is_told(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada")
        await d.deliver()
        await d.sync(VIP)
        leave = await d.claim(leaves=True)
        await d.sync(VIP, "ada")
        assert await d.claim() is None
        assert leave
        await d.settle(leave, [Accepted(leave.entries[0].seq, "r")])
        assert await d.deliver() == (["ada"], [])

    async def test_what_was_taken_back_before_it_was_told_is_not_told(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada")
        await d.sync(VIP)
        assert await d.deliver() == ([], [])
        await d.sync(VIP, "ada")
        await d.deliver()
        await d.sync(VIP)
        await d.sync(VIP, "ada")
        assert await d.deliver() == ([], [])

    async def test_a_job_settles_its_people_one_by_one(self, store: Store) -> None:
        d = await desk(store)
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
        standing = await store.memberships.standing((await d.group("list")).id)
        assert (standing.here, standing.there, standing.waiting) == (2, 1, 0)
        assert await store.memberships.try_again(d.lane.id, [State.DEAD], now=d.later()) == 1
        assert names(await d.claim()) == ["bob"]

    async def test_a_lost_job_is_told_again_in_smaller_ones(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada")
        join = await d.claim()
        assert join
        await d.settle(join, [Pending(join.entries[0].seq, "job", 0, "r")])
        await store.memberships.doubt_receipt(d.lane.id, "job", now=d.later())
        assert await d.claim() is None
        d.later(31_000)
        again = await d.claim()
        assert again
        assert orjson.loads(again.entries[0].data)["split"] == 1

    async def test_a_dead_holders_joins_stay_in_flight_and_his_leaves_go_again(
        self, store: Store
    ) -> None:
        d = await desk(store)
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

    async def test_a_failed_change_is_tried_again_until_the_horizon(self, store: Store) -> None:
        d = await desk(store)
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
        await d.settle(claim, [Doubt(seq, Problem.TIMED_OUT)])
        [letter] = await store.dead_letters.groups()
        assert letter[2] == Problem.RETRIES_EXHAUSTED

    async def test_a_refused_one_is_tried_again_when_he_joins_anew(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada")
        claim = await d.claim()
        assert claim
        await d.settle(claim, [Dead(claim.entries[0].seq, Problem.KLAVIYO_REFUSED)])
        await d.sync(VIP, "ada")
        assert await d.deliver() == ([], [])
        await d.sync(VIP)
        await d.sync(VIP, "ada")
        assert await d.deliver() == (["ada"], [])

    async def test_nothing_is_told_of_a_list_that_is_not_open(self, store: Store) -> None:
        d = await desk(store, opened=False)
        await d.look("bob", "eve")
        await d.sync(VIP, "ada", "bob", "cyd")
        await d.sync(VIP, "ada", "bob")
        assert await d.deliver() == ([], [])
        standing = await store.memberships.standing((await d.group("list")).id)
        assert (standing.here, standing.there, standing.both, standing.foreign) == (2, 2, 1, 1)
        assert await d.open() == 1
        assert await d.deliver() == (["ada"], [])

    async def test_only_whom_we_put_there_is_taken_off(self, store: Store) -> None:
        d = await desk(store, opened=False)
        await d.look("bob", "eve")
        await d.sync(VIP, "ada", "bob")
        await d.open()
        await d.deliver()
        assert await d.sync(VIP) == 1
        assert await d.deliver() == ([], ["ada"])
        await d.look("bob", "eve")
        assert await d.compare() == 0
        assert await d.deliver() == ([], [])

    async def test_foreign_members_leave_where_they_are_to(self, store: Store) -> None:
        d = await desk(store, removes=True, opened=False)
        await d.look("bob", "eve")
        await d.sync(VIP, "ada", "bob")
        target = await d.group("list")
        assert await store.memberships.dismiss(target.id, now=d.later()) == 0
        await d.open()
        assert await store.memberships.dismiss(target.id, now=d.later()) == 1
        assert await d.deliver() == (["ada"], ["eve"])
        assert await d.sync(VIP) == 2
        assert await d.deliver() == ([], ["ada", "bob"])

    async def test_the_list_read_back_tells_ids_and_who_was_taken_off(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada", "bob", "cyd")
        await d.deliver()
        await d.look("ada", "bob")
        assert await d.compare() == 1
        assert await d.deliver() == ([], [])
        standing = await store.memberships.standing((await d.group("list")).id)
        assert (standing.removed, standing.there) == (1, 2)
        await d.sync(VIP, "bob", "cyd")
        leave = await d.claim(leaves=True)
        assert leave
        assert orjson.loads(leave.entries[0].data)["profile"] == "P-ada"
        await d.settle(leave, [Accepted(leave.entries[0].seq, "r")])
        await d.look("bob")
        assert await d.compare(re_add=True) == 1
        assert await d.deliver() == (["cyd"], [])

    async def test_somebody_taken_off_and_put_back_by_hand_is_as_before(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada")
        await d.deliver()
        await d.look()
        assert await d.compare() == 1
        await d.look("ada")
        assert await d.compare() == 0
        assert await d.sync(VIP) == 1

    async def test_whom_somebody_puts_back_after_we_took_him_off_stays(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        await d.sync(VIP, "bob")
        assert await d.deliver() == ([], ["ada"])
        await d.look("ada", "bob")
        assert await d.deliver() == ([], [])
        assert await d.sync(VIP, "bob") == 0
        await d.sync(VIP, "ada", "bob")
        await d.sync(VIP, "bob")
        assert await d.deliver() == ([], [])

    async def test_a_page_of_the_list_that_is_older_than_a_write_says_nothing(
        self, store: Store
    ) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        target, m = await d.group("list"), store.memberships
        await m.begin(target.id, d.fence, now=d.later())
        asked = d.later()
        await d.sync(VIP, "ada", "cyd")
        await d.deliver()
        shown = MembersPage([person("ada"), person("bob")], None, False)
        await m.read_back(target.id, shown, d.fence, asked_at=asked, now=d.later())
        assert await d.compare() == 0
        standing = await m.standing(target.id)
        assert (standing.there, standing.both, standing.foreign) == (2, 2, 0)
        await d.sync(VIP, "ada", "bob", "cyd")
        assert await d.deliver() == (["bob"], [])

    async def test_a_push_is_newer_than_the_page_before_it(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        group, m = await d.group(VIP), store.memberships
        await m.begin(group.id, d.fence, now=d.later())
        asked = d.later()
        await push(d, "bob", False)
        await push(d, "cyd", True)
        assert await d.deliver() == (["cyd"], ["bob"])
        await m.stage(group.id, page("ada", "bob"), d.fence, asked_at=asked, now=d.later())
        await m.apply(group.id, now=d.later())
        assert await d.deliver() == ([], [])
        await d.sync(VIP, "ada", "bob")
        assert await d.deliver() == (["bob"], ["cyd"])

    async def test_a_push_by_the_persons_id_finds_his_address(self, store: Store) -> None:
        d = await desk(store)
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

    async def test_who_joins_after_the_baseline_is_greeted_once(self, store: Store) -> None:
        lane = await store.lanes.ensure("acme", "jericommerce", "membership")
        d = Desk(store, lane, await _fence(store))
        await store.memberships.link(lane, [Link("seg", "tag")], account="acc")
        m, seg = store.memberships, await d.group("seg")

        async def scan(*people: Member, greets: bool) -> list[str]:
            await m.begin(seg.id, d.fence, now=d.later())
            shown = MembersPage(people, None, False)
            at = d.later()
            await m.stage(seg.id, shown, d.fence, asked_at=at, now=at, greets=greets)
            await m.apply(seg.id, now=d.later())
            return [x.email or "" for x in await m.to_greet(seg.id, limit=10)]

        assert await scan(person("ada", 1), greets=False) == []
        assert await scan(person("ada", 1), person("bob", 5), greets=True) == ["bob@example.com"]
        assert await scan(person("ada", 1), person("bob", 5), greets=True) == ["bob@example.com"]
        await m.greeted(seg.id, ["bob@example.com"])
        assert await scan(person("ada", 9), person("bob", 5), greets=True) == ["ada@example.com"]
        await m.greeted(seg.id, ["ada@example.com"])
        assert await scan(person("ada", 9), greets=True) == []
        assert await scan(person("ada", 9), person("bob", 12), greets=True) == ["bob@example.com"]

    async def test_what_was_taken_without_a_word_is_repeated(self, store: Store) -> None:
        lane = await store.lanes.ensure("acme", "jericommerce", "membership")
        d = Desk(store, lane, await _fence(store))
        await store.memberships.link(lane, [Link("seg", "list")], account="acc")
        await d.open()
        await d.sync("seg", "ada")
        target = await d.group("list")
        for told in (1, 1):
            claim = await d.claim()
            assert claim
            unsure = [Accepted(e.seq, "r", confirmed=False) for e in claim.entries]
            await d.settle(claim, unsure)
            assert (await store.memberships.standing(target.id)).unsure == told
            assert await d.claim() is None
            assert await store.memberships.repeat(target.id, now=d.later()) == 1
        assert await d.deliver() == (["ada"], [])
        assert await store.memberships.repeat(target.id, now=d.later()) == 0

    async def test_shadow_mode_tells_nothing_and_forgets_nothing(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada")
        claim = await d.claim()
        assert claim
        await d.settle(claim, [Skipped(e.seq, "shadow") for e in claim.entries])
        await d.sync(VIP, "ada")
        assert await d.claim() is None
        assert await store.memberships.try_again(d.lane.id, [State.SKIPPED], now=d.later()) == 1
        assert await d.deliver() == (["ada"], [])

    async def test_one_write_of_a_person_is_in_flight_whatever_the_list(self, store: Store) -> None:
        d = await desk(store)
        await store.memberships.link(
            d.lane, [Link(VIP, "list"), Link(GOLD, "other")], account="acc"
        )
        await store.memberships.open((await d.group("other")).id, now=d.later())
        await d.sync(VIP, "ada")
        await d.sync(GOLD, "ada", "bob")
        first = await d.claim()
        assert names(first) == ["ada"]
        assert names(await d.claim()) == ["bob"]
        assert first
        await d.settle(first, [Accepted(e.seq, "r") for e in first.entries])
        assert names(await d.claim()) == ["ada"]

    async def test_a_profile_is_not_written_while_its_person_joins_a_list(
        self, store: Store
    ) -> None:
        d = await desk(store)
        _, _, profiles = await lanes(store)
        await happen(store, "ada", at=d.later())
        reads = await claim_reads(store, d.fence, d.later())
        assert reads
        [who] = [entry.seq for entry in reads.entries]
        shown = seen(who, "ada", d.at, profiles.id, balance=1)
        shown = replace(shown, address=address_of("acc", "ada@example.com"))
        await d.sync(VIP, "ada")
        join = await d.claim()
        assert join
        await store.reads.settle(reads, [Observed(who, shown)], now=d.later(), horizon=HORIZON)
        assert await claim_writes(store, d.fence, d.at) is None
        assert (await store.reads.fresh([who]))[who].writing
        await d.settle(join, [Accepted(e.seq, "r") for e in join.entries])
        assert not (await store.reads.fresh([who]))[who].writing
        assert await claim_writes(store, d.fence, d.at)
        await store.memberships.link(
            d.lane, [Link(VIP, "list"), Link(GOLD, "other")], account="acc"
        )
        await store.memberships.open((await d.group("other")).id, now=d.later())
        await d.sync(GOLD, "ada")
        assert await d.claim() is None

    async def test_another_account_starts_empty(self, store: Store) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada")
        await d.deliver()
        await store.memberships.forget_account("acme", now=d.later())
        assert (await d.group("list")).far_id is None
        await d.open()
        await d.sync(VIP, "ada")
        assert await d.deliver() == (["ada"], [])

    async def test_who_was_forgotten_is_in_no_group_and_does_not_come_back(
        self, store: Store
    ) -> None:
        d = await desk(store)
        await d.sync(VIP, "ada", "bob")
        await d.deliver()
        await d.look("ada", "bob")
        gone = await store.erasure.forget("acme", "id-ada", now=d.later())
        assert (gone.people, list(gone.emails), gone.rows) == (1, ["ada@example.com"], 2)
        await d.sync(VIP, "ada", "bob")
        await d.look("ada", "bob")
        assert await d.deliver() == ([], [])
        standing = await store.memberships.standing((await d.group("list")).id)
        assert (standing.here, standing.there) == (1, 1)

    async def test_a_group_that_cannot_be_read_says_why(self, store: Store) -> None:
        d = await desk(store)
        group = await d.group(VIP)
        await store.memberships.failing(group.id, Problem.GROUP_NOT_FOUND, "no such audience")
        group = await d.group(VIP)
        assert (group.problem, group.detail) == (Problem.GROUP_NOT_FOUND, "no such audience")
        await store.memberships.failing(group.id, None)
        assert (await d.group(VIP)).problem is None


async def push(d: Desk, name: str, joined: bool) -> None:
    events = await d.store.lanes.ensure("acme", "klaviyo", "event")
    said = record(email=f"{name}@example.com", person=f"id-{name}", membership=(VIP, joined))
    await d.store.append([Page(events, "webhook", [said], d.later())])
