"""Tests that every store passes for fields whose removal waits for approval (guarantee 9). Subclass
with a `store` fixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, LaneId, Millis
from connector.domain.outcomes import Accepted, Observed
from connector.domain.records import State
from connector.domain.unsets import FLOOR
from connector.ports import Fence, RetryPolicy, Store, StuckGroup
from connector.testing.contracts.profile_harness import (
    LATER,
    append_events,
    claim_reads,
    claim_writes,
    make_observation,
    profile_lane,
    read,
    settle,
    written_fields,
)
from connector.testing.contracts.store import HORIZON, NOW, acquire_lease

SINGLE = DeliveryMode.SINGLE


async def hold(store: Store, lane: LaneId, field: str = "tier") -> None:
    """So many people lose the field that further ones wait."""
    found = await store.unset_fields.note(
        lane, {field: FLOOR + 1}, writes=FLOOR + 1, earlier_writes=0, now=NOW
    )
    assert found == [field]


async def written(store: Store, fence: Fence, name: str, **fields: Any) -> int:
    """A person whose fields are confirmed."""
    await append_events(store, name)
    person = await read(store, fence, name, **fields)
    claim = await claim_writes(store, fence)
    assert claim
    await settle(store, claim, Accepted(person, "r"))
    return person


async def observe(store: Store, fence: Fence, name: str, at: int, **fields: Any) -> None:
    await append_events(store, name, at=at)
    await read(store, fence, name, at, **fields)


class UnsetFieldsContract:
    """One behaviour per test."""

    async def test_a_field_is_held_once_too_many_people_lose_it(self, store: Store) -> None:
        profiles = await profile_lane(store)
        note = store.unset_fields.note
        few = {"tier": FLOOR, "club": 1}
        assert not await note(profiles.id, few, writes=FLOOR, earlier_writes=900, now=NOW)
        assert await store.unset_fields.held(profiles.id) == {}
        more = {"tier": 1, "club": 1}
        assert await note(profiles.id, more, writes=1, earlier_writes=0, now=NOW) == ["tier"]
        assert await store.unset_fields.held(profiles.id) == {"tier": 0}
        assert not await note(profiles.id, more, writes=1, earlier_writes=0, now=NOW)
        assert await store.unset_fields.held(LaneId(profiles.id + 9)) == {}

    async def test_a_held_field_is_left_out_and_the_rest_is_written(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        person = await written(store, fence, "ada", tier="Gold", balance=1)
        await hold(store, profiles.id)
        await observe(store, fence, "ada", LATER, tier=None, balance=2)
        claim = await claim_writes(store, fence, LATER, mode=SINGLE)
        assert claim
        assert written_fields(claim) == {"balance": 2}
        await settle(store, claim, Accepted(person, "r"), at=LATER)
        assert await claim_writes(store, fence, LATER, mode=SINGLE) is None
        assert await store.unset_fields.held(profiles.id) == {"tier": 1}
        groups = await store.dead_letters.groups()
        assert groups == [StuckGroup(profiles, State.HELD, Problem.MASS_UNSET.value, 1)]
        # They are no longer held when something else of them changes.
        await observe(store, fence, "ada", LATER + 1, tier=None, balance=3)
        claim = await claim_writes(store, fence, LATER + 1, mode=SINGLE)
        assert claim
        assert written_fields(claim) == {"balance": 3}

    async def test_what_an_event_shows_of_a_held_person_is_written(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        person = await written(store, fence, "ada", tier="Gold", balance=1)
        await hold(store, profiles.id)
        await observe(store, fence, "ada", LATER, tier=None, balance=1)
        assert await claim_writes(store, fence, LATER, mode=SINGLE) is None
        await append_events(store, "ada", at=LATER + 1)
        claim = await claim_reads(store, fence, LATER + 1)
        assert claim
        shown = make_observation(person, "ada", LATER + 1, profiles.id, scans=1)
        outcome = Observed(person, replace(shown, partial=True))
        policy = RetryPolicy(HORIZON)
        await store.reads.settle(claim, [outcome], now=Millis(LATER + 1), policy=policy)
        assert written_fields(await claim_writes(store, fence, LATER + 1, mode=SINGLE)) == {
            "scans": 1
        }

    async def test_a_claim_passes_over_those_who_wait(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        names = [f"p{n}" for n in range(12)]
        for name in names:
            await written(store, fence, name, tier="Gold", club="A")
        await hold(store, profiles.id)
        for name in names[:11]:
            await observe(store, fence, name, LATER, tier=None, club="A")
        await observe(store, fence, names[11], LATER, tier="Gold", club=None)
        claim = await claim_writes(store, fence, LATER, mode=SINGLE, limit=2)
        assert claim
        assert written_fields(claim) == {"club": None}
        assert await store.unset_fields.held(profiles.id) == {"tier": 11}

    async def test_a_released_field_is_removed_from_all_who_waited(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        await written(store, fence, "ada", tier="Gold", club="A")
        await hold(store, profiles.id)
        await hold(store, profiles.id, "club")
        await observe(store, fence, "ada", LATER, tier=None, club=None)
        assert await claim_writes(store, fence, LATER, mode=SINGLE) is None
        assert await store.unset_fields.held(profiles.id) == {"tier": 1, "club": 1}
        release, note = store.unset_fields.release, store.unset_fields.note
        assert await release(profiles.id, "tier", allowed=100, now=LATER) == 1
        assert await store.unset_fields.held(profiles.id) == {"club": 0}
        claim = await claim_writes(store, fence, LATER, mode=SINGLE)
        assert claim
        assert written_fields(claim) == {"tier": None}
        # The approval covers its number of people.
        for people, held in ((100, []), (1, ["tier"])):
            assert held == await note(
                profiles.id, {"tier": people}, writes=people, earlier_writes=0, now=LATER
            )

    async def test_another_account_ends_the_hold(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        await written(store, fence, "ada", tier="Gold", balance=1)
        await hold(store, profiles.id)
        await observe(store, fence, "ada", LATER, tier=None, balance=1)
        assert await claim_writes(store, fence, LATER, mode=SINGLE) is None
        await store.profiles.reset_confirmed(profiles.id, now=LATER)
        assert written_fields(await claim_writes(store, fence, LATER)) == {"balance": 1}
        assert await store.unset_fields.held(profiles.id) == {}
