"""The contract of stores for events whose own body sets fields of the person: the mapping's
`trusted` and `from_event`. Subclass it and define a fixture `store`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.outcomes import Accepted, Observed
from connector.domain.records import Appended, Page
from connector.ports import RetryPolicy, Store
from connector.testing.contracts.profile_harness import (
    LATER,
    append_events,
    claim_reads,
    claim_writes,
    lanes,
    make_observation,
    profile_lane,
    read,
    settle,
    written_fields,
)
from connector.testing.contracts.store import HORIZON, NOW, acquire_lease, record


async def append_event(
    store: Store,
    at: int = NOW,
    *,
    key: str = "",
    person: str = "ada",
    email: str | None = "",
    partial: bool = True,
    received: int | None = None,
    **changes: Any,
) -> Appended:
    """Append an event at this time that sets these fields of its person."""
    events, _, profiles = await lanes(store)
    name = person if email == "" else (email or "").partition("@")[0]
    observation = replace(make_observation(0, name, at, profiles.id, **changes), partial=partial)
    if email is None:
        observation = replace(observation, identity={}, address=None)
    else:
        email = f"{name}@example.com"
    one = record(key, email=email, person=person, observation=observation)
    [result] = await store.outbox.append([Page(events, "webhook", [one], Millis(received or at))])
    return result


class EventSourcedContract:
    """Each test names a rule that every store follows."""

    async def test_event_sourced_fields_are_written_without_a_read(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_event(store, tier="Gold")
        assert await claim_reads(store, fence) is None
        claim = await claim_writes(store, fence)
        assert written_fields(claim) == {"tier": "Gold"}
        assert claim
        assert claim.entries[0].email == "ada@example.com"

    async def test_an_event_does_not_change_other_fields(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=5, tier="Silver")
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(claim.entries[0].seq, "r"))
        await append_event(store, LATER, tier="Gold")
        assert written_fields(await claim_writes(store, fence, LATER)) == {"tier": "Gold"}

    async def test_the_newer_of_an_event_and_a_read_wins(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", NOW, balance=1, tier="Silver")
        await append_event(store, NOW - 1, received=LATER, balance=9, tier="Bronze")
        await append_event(store, NOW + 1, tier="Gold")
        assert written_fields(await claim_writes(store, fence, LATER)) == {
            "balance": 1,
            "tier": "Gold",
        }

    async def test_a_read_that_was_sent_before_the_event_does_not_replace_it(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        await append_events(store, "ada")
        claim = await claim_reads(store, fence, NOW)
        assert claim
        await append_event(store, NOW + 1, tier="Gold")
        observation = make_observation(
            claim.entries[0].seq, "ada", NOW, profiles.id, balance=1, tier="Silver"
        )
        outcome = Observed(observation.person, observation)
        await store.reads.settle(claim, [outcome], now=LATER, policy=RetryPolicy(HORIZON))
        assert written_fields(await claim_writes(store, fence, LATER)) == {
            "balance": 1,
            "tier": "Gold",
        }

    async def test_the_latest_of_several_events_in_one_page_wins(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events, _, profiles = await lanes(store)
        records = [
            record(
                person="ada",
                observation=replace(
                    make_observation(0, "ada", NOW + at, profiles.id, n=at), partial=True
                ),
            )
            for at in (2, 5, 1)
        ]
        other = record(
            email="bob@example.com",
            person="bob",
            observation=replace(make_observation(0, "bob", NOW, profiles.id, n=7), partial=True),
        )
        await store.outbox.append([Page(events, "webhook", [*records, other], LATER)])
        claim = await claim_writes(store, fence, LATER)
        assert claim
        assert sorted(written_fields(replace(claim, entries=[e]))["n"] for e in claim.entries) == [
            5,
            7,
        ]

    async def test_a_redelivered_event_changes_no_field(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_event(store, key="e1", tier="Gold")
        await append_event(store, LATER, key="e1", tier="Silver")
        assert written_fields(await claim_writes(store, fence, LATER)) == {"tier": "Gold"}

    async def test_an_event_that_is_not_stored_changes_no_field(self, store: Store) -> None:
        """Event and observation are stored in one transaction."""
        fence = await acquire_lease(store)
        events, _, profiles = await lanes(store)
        good = replace(make_observation(0, "ada", NOW, profiles.id, tier="Gold"), partial=True)
        bad = replace(good, changes={"tier": object()})
        records = [record(person="ada", observation=o) for o in (good, bad)]
        try:
            await store.outbox.append([Page(events, "webhook", records, NOW)])
        except Exception:
            assert await claim_writes(store, fence, LATER) is None
            assert not [b for b in await store.reports.backlog() if b.ready]
        else:
            raise AssertionError("an observation that cannot be stored must fail its page")

    async def test_with_profile_reads_an_event_does_not_change_the_address(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        await append_event(store, LATER, email="ada.new@example.com", tier="Gold")
        claim = await claim_writes(store, fence, LATER)
        assert claim
        assert claim.entries[0].email == "ada@example.com"
        assert written_fields(claim) == {"balance": 1, "tier": "Gold"}

    async def test_without_profile_reads_an_event_also_sets_the_identity(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        await append_event(store, partial=False, tier="Gold")
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(claim.entries[0].seq, "r"))
        await append_event(store, LATER, email="ada.new@example.com", partial=False)
        cleanup = await claim_writes(store, fence, LATER, mode=DeliveryMode.SINGLE)
        assert written_fields(cleanup) == {"tier": None}
        assert cleanup
        assert cleanup.entries[0].email == "ada@example.com"
        await settle(store, cleanup, Accepted(cleanup.entries[0].seq, "r"), at=LATER)
        written = await claim_writes(store, fence, LATER)
        assert written_fields(written) == {"tier": "Gold"}
        assert written
        assert written.entries[0].email == "ada.new@example.com"

    async def test_an_older_event_does_not_restore_the_old_address(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_event(store, LATER, email="ada.new@example.com", partial=False, tier="Gold")
        await append_event(store, NOW, received=LATER, partial=False, tier="Silver", level=1)
        claim = await claim_writes(store, fence, LATER)
        assert claim
        assert claim.entries[0].email == "ada.new@example.com"
        assert written_fields(claim) == {"tier": "Gold", "level": 1}

    async def test_a_person_without_an_address_waits_for_one(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_event(store, email=None, partial=False, tier="Gold")
        assert await claim_writes(store, fence) is None
        await append_event(store, NOW - 5, received=LATER, partial=False)
        # The event that waited for the address goes first.
        claim = await claim_writes(store, fence, LATER + 2_001)
        assert written_fields(claim) == {"tier": "Gold"}

    async def test_an_event_does_not_release_a_person_held_by_a_read(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        await append_events(store, "ada")
        claim = await claim_reads(store, fence)
        assert claim
        bad = make_observation(claim.entries[0].seq, "ada", NOW, profiles.id, balance=1)
        bad = replace(bad, problem=Problem.BAD_ADDRESS)
        await store.reads.settle(
            claim, [Observed(bad.person, bad)], now=NOW, policy=RetryPolicy(HORIZON)
        )
        await append_event(store, LATER, tier="Gold")
        assert await claim_writes(store, fence, LATER) is None

    async def test_an_event_writes_nothing_for_a_withheld_person(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        await append_events(store, "ada")
        claim = await claim_reads(store, fence)
        assert claim
        withheld_person = make_observation(claim.entries[0].seq, "ada", NOW, profiles.id)
        withheld_person = replace(
            withheld_person, identity={}, address=None, problem=Problem.NO_IDENTITY, withheld=True
        )
        outcome = Observed(withheld_person.person, withheld_person)
        await store.reads.settle(claim, [outcome], now=NOW, policy=RetryPolicy(HORIZON))
        await append_event(store, LATER, tier="Gold")
        assert await claim_writes(store, fence, LATER) is None
