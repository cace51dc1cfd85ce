"""What every store must do to list people whose profile, read or membership is held or died."""

from __future__ import annotations

from collections.abc import Sequence

from connector.domain.errors import Problem
from connector.domain.outcomes import Dead, Held
from connector.domain.records import State
from connector.ports import RetryPolicy, Store, StuckPerson
from connector.testing.contracts.list_harness import VIP, make_harness
from connector.testing.contracts.profile_harness import (
    LATER,
    append_events,
    claim_reads,
    profile_lane,
    read_lane,
    refuse_profile,
)
from connector.testing.contracts.store import HORIZON, NOW, acquire_lease

_REFUSED = Problem.KLAVIYO_REFUSED


def _emails(found: Sequence[StuckPerson]) -> list[str]:
    return [(x.email or "").partition("@")[0] for x in found]


async def _refuse_profiles(store: Store, *names: str, problem: Problem = _REFUSED) -> list[int]:
    """The first write of these people is refused; returns their numbers."""
    fence = await acquire_lease(store)
    return [await refuse_profile(store, fence, name, problem) for name in names]


async def _refuse_read(store: Store, name: str) -> None:
    """The platform refuses the read of this person."""
    fence = await acquire_lease(store)
    await append_events(store, name)
    claim = await claim_reads(store, fence)
    assert claim
    [entry] = claim.entries
    refused = Dead(entry.seq, Problem.PLATFORM_REFUSED, "no such person")
    await store.reads.settle(claim, [refused], now=LATER, policy=RetryPolicy(HORIZON))


class StuckPeopleContract:
    async def test_no_one_is_listed_where_nothing_failed(self, store: Store) -> None:
        await append_events(store, "ada")
        assert await store.stuck_people.find() == []

    async def test_a_refused_profile_is_listed_with_its_person_and_reason(
        self, store: Store
    ) -> None:
        [number] = await _refuse_profiles(store, "ada")
        [found] = await store.stuck_people.find()
        assert found.lane == await profile_lane(store)
        assert (found.state, found.problem) == (State.DEAD, _REFUSED)
        assert found.detail == "ada is odd"
        assert (found.person, found.platform_id) == (number, "ada")
        assert found.email == "ada@example.com"
        assert NOW <= found.since <= LATER
        assert found.target == ""

    async def test_profiles_reads_and_memberships_follow_each_other_page_by_page(
        self, store: Store
    ) -> None:
        await _refuse_profiles(store, "ada", "bob", "cyd")
        await _refuse_read(store, "dan")
        env = await make_harness(store)
        await env.sync(VIP, "eve", "fay")
        claim = await env.claim()
        assert claim
        await env.settle(
            claim,
            [
                Dead(claim.entries[0].seq, _REFUSED),
                Held(claim.entries[1].seq, Problem.KLAVIYO_TARGET),
            ],
        )
        all_of_them = await store.stuck_people.find()
        assert _emails(all_of_them) == ["cyd", "bob", "ada", "dan", "fay", "eve"]
        assert [x.target for x in all_of_them] == ["", "", "", "", "list", "list"]
        for size in (1, 2, 3, 4):
            found: list[StuckPerson] = []
            while page := await store.stuck_people.find(
                after=found[-1].position if found else None, limit=size
            ):
                assert len(page) <= size
                found += page
            assert found == all_of_them

    async def test_a_connection_and_a_cause_can_be_chosen(self, store: Store) -> None:
        await _refuse_profiles(store, "ada")
        await _refuse_profiles(store, "bob", problem=Problem.KLAVIYO_CONFLICT)
        await _refuse_read(store, "cyd")
        find = store.stuck_people.find
        assert _emails(await find(cause="K409")) == ["bob"]
        assert _emails(await find(cause="P400", connection="acme")) == ["cyd"]
        assert await find(connection="other") == []
        assert await find(cause="E10") == []

    async def test_groups_name_the_lane_of_what_is_stuck(self, store: Store) -> None:
        await _refuse_profiles(store, "ada", "bob")
        await _refuse_read(store, "cyd")
        assert [(group.lane, group.entries) for group in await store.dead_letters.groups()] == [
            (await profile_lane(store), 2),
            (await read_lane(store), 1),
        ]
