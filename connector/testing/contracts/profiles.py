"""What every store of people as states must do: reads and profiles. Subclass it and give it a
`store` fixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Gone,
    Observed,
    Pending,
    Retry,
    Unsent,
)
from connector.domain.profile_state import write_from_json
from connector.domain.profiles import Observation
from connector.domain.records import Appended, Claim, Entry, Page
from connector.ports import Fence, RetryPolicy, Store
from connector.testing.contracts.store import HORIZON, NOW, TTL, acquire_lease, record, take

LATER = Millis(NOW + 1000)


async def lanes(store: Store) -> tuple[Lane, Lane, Lane]:
    """(events out, reads in, profiles out)."""
    events = await store.lanes.ensure("acme", "klaviyo", "event")
    reads = await store.lanes.ensure("acme", "jericommerce", "profile")
    profiles = await store.lanes.ensure("acme", "klaviyo", "profile")
    return events, reads, profiles


async def append_events(
    store: Store, *who: str, at: int = NOW, wait: int = 0, gap: int = 0
) -> None:
    """An event for each of these people, which wants them read again."""
    events, reads, _ = await lanes(store)
    records = [record(email=f"{name}@example.com", person=name, refresh=True) for name in who]
    page = Page(
        events,
        "webhook",
        records,
        Millis(at),
        read_lane=reads.id,
        attach_wait=wait,
        min_read_interval=gap,
    )
    await store.outbox.append([page])


async def claim_reads(store: Store, fence: Fence, at: int = NOW) -> Claim | None:
    _, reads, _ = await lanes(store)
    return await store.reads.claim(
        reads, fence, now=Millis(at), limit=100, mode=DeliveryMode.BATCH, mapping=""
    )


async def claim_writes(
    store: Store,
    fence: Fence,
    at: int = NOW,
    *,
    mode: DeliveryMode = DeliveryMode.BATCH,
    limit: int = 100,
) -> Claim | None:
    _, _, profiles = await lanes(store)
    return await store.profiles.claim(
        profiles, fence, now=Millis(at), limit=limit, mode=mode, mapping=""
    )


def make_observation(person: int, name: str, at: int, lane: LaneId, **changes: Any) -> Observation:
    email = f"{name}@example.com"
    return Observation(
        person=person,
        view={"email": email, **changes},
        changes=changes,
        identity={"email": email},
        at=Millis(at),
        mapping="v1",
        lane=lane,
        address=email.encode(),
    )


async def read(store: Store, fence: Fence, name: str, at: int = NOW, **changes: Any) -> int:
    """Claim the one read that is due and observe these changes; returns the person."""
    _, _, profiles = await lanes(store)
    claim = await claim_reads(store, fence, at)
    assert claim
    [entry] = claim.entries
    observation = make_observation(entry.seq, name, at, profiles.id, **changes)
    outcome = Observed(entry.seq, observation)
    assert (
        await store.reads.settle(claim, [outcome], now=Millis(at), policy=RetryPolicy(HORIZON)) == 1
    )
    return entry.seq


async def settle(store: Store, claim: Claim, *outcomes: Any, at: int = NOW) -> int:
    return await store.profiles.settle(claim, outcomes, now=Millis(at), policy=RetryPolicy(HORIZON))


def written_fields(claim: Claim | None) -> dict[str, Any]:
    """What the one claimed write sets (None: unsets)."""
    assert claim
    [entry] = claim.entries
    write = write_from_json(entry.data)
    return {**write.sets, **dict.fromkeys(write.unsets)}


async def _add_person_at(
    store: Store, fence: Fence, name: str, at: int = LATER, **changes: Any
) -> int:
    """Another person turns up at this address."""
    events, reads, _ = await lanes(store)
    twin = record(email=f"{name}@example.com", person="twin", refresh=True)
    await store.outbox.append([Page(events, "webhook", [twin], Millis(at), read_lane=reads.id)])
    return await read(store, fence, name, at, **changes)


async def _add_two_at_one_address(
    store: Store, fence: Fence, one: dict[str, Any], other: dict[str, Any]
) -> tuple[int, int]:
    """The first was told to Klaviyo before the second turned up."""
    await append_events(store, "ada")
    first = await read(store, fence, "ada", **one)
    claim = await claim_writes(store, fence)
    assert claim
    await settle(store, claim, Accepted(first, "r1"))
    return first, await _add_person_at(store, fence, "ada", **other)


class StatesContract:
    """Each test is a sentence about every store."""

    async def test_an_event_requests_a_read_of_its_person(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada", "bob")
        claim = await claim_reads(store, fence)
        assert claim
        assert [(e.unique_id, e.email) for e in claim.entries] == [
            ("ada", "ada@example.com"),
            ("bob", "bob@example.com"),
        ]
        assert await claim_reads(store, fence) is None

    async def test_events_during_a_read_share_one_trailing_read(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        await append_events(store, "ada", gap=500)
        first = await claim_reads(store, fence)
        assert first
        for later in (100, 200, 300):
            await append_events(store, "ada", at=NOW + later, gap=500)
        assert await claim_reads(store, fence, NOW + 400) is None
        entry = first.entries[0]
        answer = Observed(
            entry.seq, make_observation(entry.seq, "ada", NOW, profiles.id, balance=1)
        )
        await store.reads.settle(
            first, [answer], now=Millis(NOW + 400), policy=RetryPolicy(HORIZON)
        )
        ready = await store.reads.ready(reads.id, now=Millis(NOW + 400), limit=9)
        assert ready.batch == 0
        assert ready.next_due
        await store.leases.renew(fence, now=Millis(ready.next_due), ttl=TTL)
        again = await claim_reads(store, fence, ready.next_due)
        assert again
        assert len(again.entries) == 1
        trailing = Observed(
            entry.seq, make_observation(entry.seq, "ada", ready.next_due, profiles.id)
        )
        await store.reads.settle(again, [trailing], now=ready.next_due, policy=RetryPolicy(HORIZON))
        assert (await store.reads.ready(reads.id, now=ready.next_due, limit=9)).next_due is None

    async def test_an_event_waits_for_its_persons_read(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events, _, _ = await lanes(store)
        await append_events(store, "ada", wait=1000)
        assert (await store.outbox.ready(events.id, now=NOW, limit=9)).batch == 0
        person = await read(store, fence, "ada", balance=7)
        assert (await store.outbox.ready(events.id, now=NOW, limit=9)).batch == 1
        fresh = (await store.reads.fresh_views([person]))[person]
        assert (fresh.view["balance"], fresh.at, fresh.write_in_flight) == (7, NOW, False)
        await append_events(store, "bob", wait=1000)
        assert (await store.outbox.ready(events.id, now=Millis(NOW + 1000), limit=9)).batch == 2

    async def test_only_changed_fields_are_written_and_the_unchanged_cost_nothing(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1, tier="Gold", gone=None)
        claim = await claim_writes(store, fence)
        assert written_fields(claim) == {"balance": 1, "tier": "Gold"}
        assert claim
        assert await settle(store, claim, Accepted(person, "r1", "K1")) == 1
        assert await claim_writes(store, fence, NOW + 1) is None
        await append_events(store, "ada", at=LATER)
        await read(store, fence, "ada", LATER, balance=1, tier="Gold")
        assert await claim_writes(store, fence, LATER) is None
        await append_events(store, "ada", at=LATER + 1000)
        await read(store, fence, "ada", LATER + 1000, balance=2, tier="Gold")
        assert written_fields(await claim_writes(store, fence, LATER + 1000)) == {"balance": 2}

    async def test_an_unset_is_sent_alone(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1, tier="Gold")
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(person, "r1"))
        await append_events(store, "ada", at=LATER)
        await read(store, fence, "ada", LATER, balance=2, tier=None)
        assert await claim_writes(store, fence, LATER) is None
        assert written_fields(
            await claim_writes(store, fence, LATER, mode=DeliveryMode.SINGLE)
        ) == {
            "balance": 2,
            "tier": None,
        }

    async def test_an_older_read_never_wins(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        await append_events(store, "ada")
        old = await claim_reads(store, fence)
        assert old
        person = old.entries[0].seq
        # Its holder dies; another reads, and only then the first answer comes in.
        assert await store.reads.recover(fence, now=LATER) == 1
        await read(store, fence, "ada", LATER, balance=2)
        late = Observed(person, make_observation(person, "ada", NOW, profiles.id, balance=1))
        assert await store.reads.settle(old, [late], now=LATER, policy=RetryPolicy(HORIZON)) == 0
        assert written_fields(await claim_writes(store, fence, LATER)) == {"balance": 2}
        assert reads.kind == "profile"

    async def test_one_write_per_person_at_a_time(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        await append_events(store, "ada", at=LATER)
        await read(store, fence, "ada", LATER, balance=2)
        assert await claim_writes(store, fence, LATER) is None
        assert (await store.reads.fresh_views([person]))[person].write_in_flight
        await settle(store, claim, Accepted(person, "r1"), at=LATER)
        assert written_fields(await claim_writes(store, fence, LATER)) == {"balance": 2}

    async def test_a_profile_waits_while_an_event_may_carry_its_fields(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events, _, _ = await lanes(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        sent = await store.outbox.claim(
            events, fence, now=NOW, limit=1, mode=DeliveryMode.BATCH, mapping="v1"
        )
        assert sent
        assert await claim_writes(store, fence) is None
        accepted = Accepted(sent.entries[0].seq, "r")
        await store.outbox.settle(sent, [accepted], now=NOW, policy=RetryPolicy(HORIZON))
        assert written_fields(await claim_writes(store, fence)) == {"balance": 1}

    async def test_a_job_confirms_only_through_its_receipt(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, _, profiles = await lanes(store)
        people = []
        for name in ("ada", "bob", "cy"):
            await append_events(store, name)
            people.append(await read(store, fence, name, balance=1))
        claim = await claim_writes(store, fence)
        assert claim
        queued = [Pending(p, "job1", place, "r1") for place, p in enumerate(people)]
        assert await settle(store, claim, *queued) == 3
        [receipt] = await store.profile_receipts.open_receipts(profiles.id)
        assert (receipt.id, receipt.people) == ("job1", 3)
        assert await claim_writes(store, fence, NOW + 5000) is None
        await append_events(store, "ada", at=LATER)
        await read(store, fence, "ada", LATER, balance=2)
        # A restart loses no receipt.
        await store.profiles.recover(fence, now=LATER)
        closed = await store.profile_receipts.close_receipt(
            profiles.id, "job1", now=LATER, failed={1: (Problem.IMPORT_REFUSED, "bad")}
        )
        assert closed == 3
        assert await store.profile_receipts.open_receipts(profiles.id) == []
        assert written_fields(await claim_writes(store, fence, LATER)) == {"balance": 2}

    async def test_an_import_job_without_a_known_result_is_sent_again(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, _, profiles = await lanes(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Pending(person, "", 0, "r1"))
        assert await store.profile_receipts.requeue_receipt(profiles.id, "", now=LATER) == 1
        # Singly, so that one bad profile cannot take a whole job along again.
        assert await claim_writes(store, fence, LATER) is None
        assert written_fields(
            await claim_writes(store, fence, LATER, mode=DeliveryMode.SINGLE)
        ) == {"balance": 1}

    async def test_writes_of_a_dead_holder_stay_in_flight_until_accounted_for(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        _, _, profiles = await lanes(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        other = await acquire_lease(store, "two", NOW + TTL)
        assert await store.profiles.recover(other, now=Millis(NOW + TTL)) == 1
        assert await claim_writes(store, other, NOW + TTL) is None
        [receipt] = await store.profile_receipts.open_receipts(profiles.id)
        assert receipt.id == ""
        await store.profile_receipts.requeue_receipt(profiles.id, "", now=Millis(NOW + TTL))
        assert written_fields(
            await claim_writes(store, other, NOW + TTL, mode=DeliveryMode.SINGLE)
        ) == {"balance": 1}
        assert await settle(store, claim, Accepted(person, "late")) == 0

    async def test_an_unset_in_flight_when_its_holder_died_is_repeated(self, store: Store) -> None:
        """What was confirmed before may be gone, so it confirms nothing any more."""
        fence = await acquire_lease(store)
        _, _, profiles = await lanes(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", tier="Gold")
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(person, "r1"))
        await append_events(store, "ada", at=LATER)
        await read(store, fence, "ada", LATER, tier=None)
        assert written_fields(
            await claim_writes(store, fence, LATER, mode=DeliveryMode.SINGLE)
        ) == {"tier": None}
        at = NOW + TTL + 1000
        other = await acquire_lease(store, "two", at)
        await store.profiles.recover(other, now=Millis(at))
        await append_events(store, "ada", at=at)
        await read(store, other, "ada", at, tier="Gold")
        await store.profile_receipts.requeue_receipt(profiles.id, "", now=Millis(at))
        assert written_fields(await claim_writes(store, other, at, mode=DeliveryMode.SINGLE)) == {
            "tier": "Gold"
        }

    async def test_an_ambiguous_write_is_sent_again_after_a_delay(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Ambiguous(person, Problem.TIMED_OUT))
        assert await claim_writes(store, fence, NOW + 5000) is None
        at = NOW + 30_000
        await store.leases.renew(fence, now=Millis(at), ttl=TTL)
        assert written_fields(await claim_writes(store, fence, at)) == {"balance": 1}

    async def test_retry_unsent_and_dead(self, store: Store) -> None:
        fence = await acquire_lease(store)
        people = []
        for name in ("ada", "bob", "cy"):
            await append_events(store, name)
            people.append(await read(store, fence, name, balance=1))
        claim = await claim_writes(store, fence)
        assert claim
        ada, bob, cy = people
        await settle(
            store,
            claim,
            Retry(ada, Problem.KLAVIYO_THROTTLED, 5.0),
            Unsent(bob),
            Dead(cy, Problem.KLAVIYO_REFUSED, "invalid"),
        )
        again = await claim_writes(store, fence)
        assert again
        assert [(e.seq, e.attempts) for e in again.entries] == [(bob, 1)]
        later = await claim_writes(store, fence, NOW + 5000)
        assert later
        assert [(e.seq, e.attempts) for e in later.entries] == [(ada, 2)]
        # A new state is a new chance.
        await append_events(store, "cy", at=LATER)
        await read(store, fence, "cy", LATER, balance=2)
        assert written_fields(await claim_writes(store, fence, LATER)) == {"balance": 2}

    async def test_a_changed_address_leaves_no_fields_at_the_old_one(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events, reads, profiles = await lanes(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(person, "r1", "K1"))
        moved = record(email="new@example.com", person="ada", refresh=True)
        await store.outbox.append([Page(events, "webhook", [moved], LATER, read_lane=reads.id)])
        assert await read(store, fence, "new", LATER, balance=1) == person
        farewell = await claim_writes(store, fence, LATER, mode=DeliveryMode.SINGLE)
        assert farewell
        write = write_from_json(farewell.entries[0].data)
        assert (write.identity, write.unsets) == ({"email": "ada@example.com"}, ("balance",))
        await settle(store, farewell, Accepted(person, "r2"), at=LATER)
        assert written_fields(await claim_writes(store, fence, LATER)) == {"balance": 1}
        assert profiles.destination == "klaviyo"

    async def test_of_two_people_with_one_address_the_most_recently_active_wins(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        events, reads, _ = await lanes(store)
        await append_events(store, "ada")
        first = await read(store, fence, "ada", balance=1)
        twin = record(email="ada@example.com", person="twin", refresh=True)
        await store.outbox.append([Page(events, "webhook", [twin], LATER, read_lane=reads.id)])
        second = await read(store, fence, "ada", LATER, balance=2)
        assert first != second
        claim = await claim_writes(store, fence, LATER)
        claim = claim or await claim_writes(store, fence, LATER, mode=DeliveryMode.SINGLE)
        assert written_fields(claim) == {"balance": 2}
        assert claim
        assert claim.entries[0].seq == second

    async def test_a_person_who_regains_their_address_is_written_again(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events, reads, _ = await lanes(store)
        first, second = await _add_two_at_one_address(store, fence, {"balance": 1}, {"balance": 2})
        claim = await claim_writes(store, fence, LATER)
        assert claim
        await settle(store, claim, Accepted(second, "r2"), at=LATER)
        moved = record(email="new@example.com", person="twin", refresh=True)
        at = LATER + 10
        await store.outbox.append(
            [Page(events, "webhook", [moved], Millis(at), read_lane=reads.id)]
        )
        await read(store, fence, "new", at, balance=2)
        farewell = await claim_writes(store, fence, at, mode=DeliveryMode.SINGLE)
        assert farewell
        await settle(store, farewell, Accepted(second, "r3"), at=at)
        await append_events(store, "ada", at=at + 10)
        assert await read(store, fence, "ada", at + 10, balance=1) == first
        claim = await claim_writes(store, fence, at + 10)
        assert claim
        assert first in [entry.seq for entry in claim.entries]

    async def test_fields_of_the_other_person_at_a_shared_address_are_unset(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        await _add_two_at_one_address(store, fence, {"balance": 1, "tier": "Gold"}, {"balance": 2})
        assert written_fields(
            await claim_writes(store, fence, LATER, mode=DeliveryMode.SINGLE)
        ) == {
            "balance": 2,
            "tier": None,
        }

    async def test_a_person_who_lost_their_address_during_a_write_is_not_written_again(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        first = await read(store, fence, "ada", balance=1)
        flying = await claim_writes(store, fence)
        assert flying
        second = await _add_person_at(store, fence, "ada", balance=2)
        assert await claim_writes(store, fence, LATER) is None
        await settle(store, flying, Retry(first, Problem.KLAVIYO_THROTTLED), at=LATER)
        claim = await claim_writes(store, fence, LATER, mode=DeliveryMode.BATCH)
        assert claim
        assert [entry.seq for entry in claim.entries] == [second]
        await settle(store, claim, Accepted(second, "r"), at=LATER)
        for mode in (DeliveryMode.SINGLE, DeliveryMode.BATCH):
            assert await claim_writes(store, fence, LATER + 9, mode=mode) is None

    async def test_an_unknown_person_with_an_address_of_another_is_not_written(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        first, second = await _add_two_at_one_address(store, fence, {"balance": 1}, {"balance": 2})
        claim = await claim_writes(store, fence, LATER)
        assert claim
        await settle(store, claim, Accepted(second, "r"), at=LATER)
        for at, rule in ((LATER + 10, "keep"), (LATER + 20, "unset")):
            await append_events(store, "ada", at=at)
            gone = await claim_reads(store, fence, at)
            assert gone
            outcomes = [
                Gone(entry.seq, rule)  # type: ignore[arg-type]
                for entry in gone.entries
                if entry.seq == first
            ]
            await store.reads.settle(gone, outcomes, now=Millis(at), policy=RetryPolicy(HORIZON))
            for mode in (DeliveryMode.SINGLE, DeliveryMode.BATCH):
                assert await claim_writes(store, fence, at, mode=mode) is None

    async def test_an_address_now_owned_by_another_person_is_not_cleared(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        events, reads, _ = await lanes(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1, tier="Gold")
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(person, "r1"))
        moved = record(email="new@example.com", person="ada", refresh=True)
        await store.outbox.append([Page(events, "webhook", [moved], LATER, read_lane=reads.id)])
        await read(store, fence, "new", LATER, balance=1, tier="Gold")
        heir = await _add_person_at(store, fence, "ada", LATER + 1, balance=7)
        # The heir's write goes first, and what it may lack comes with the next one.
        writes: dict[int, dict[str, Any]] = {person: {}, heir: {}}
        for at in range(LATER + 2, LATER + 8):
            for mode in (DeliveryMode.SINGLE, DeliveryMode.BATCH):
                claim = await claim_writes(store, fence, at, mode=mode)
                for entry in claim.entries if claim else ():
                    write = write_from_json(entry.data)
                    assert not write.is_cleanup
                    writes[entry.seq] |= {**write.sets, **dict.fromkeys(write.unsets)}
                    assert claim
                    await settle(store, claim, Accepted(entry.seq, "r"), at=at)
        assert writes == {
            person: {"balance": 1, "tier": "Gold"},
            heir: {"balance": 7, "tier": None},
        }

    async def test_fields_an_event_may_have_written_are_corrected(self, store: Store) -> None:
        """Nothing confirms what an event carries, so a value that was wanted may be there."""
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(person, "r1"))
        for at, balance, tier in ((LATER, 2, "Gold"), (LATER + 5000, 1, None)):
            await append_events(store, "ada", at=at)
            await read(store, fence, "ada", at, balance=balance, tier=tier)
        write = await claim_writes(store, fence, LATER + 5000, mode=DeliveryMode.SINGLE)
        assert written_fields(write) == {"balance": 1, "tier": None}

    async def test_a_read_requested_during_a_read_causes_another_read(self, store: Store) -> None:
        """Though the event was received before: it may have brought another address."""
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        await append_events(store, "ada")
        claim = await claim_reads(store, fence, NOW + 5)
        assert claim
        await append_events(store, "ada", at=NOW + 3)
        entry = claim.entries[0]
        answer = Observed(entry.seq, make_observation(entry.seq, "ada", NOW + 5, profiles.id))
        await store.reads.settle(claim, [answer], now=Millis(NOW + 9), policy=RetryPolicy(HORIZON))
        ready = await store.reads.ready(reads.id, now=Millis(NOW + 9), limit=9)
        assert ready.next_due

    async def test_a_withheld_write_is_checked_again_soon(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events, _, profiles = await lanes(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        assert await store.outbox.claim(
            events, fence, now=NOW, limit=1, mode=DeliveryMode.BATCH, mapping="v1"
        )
        assert await claim_writes(store, fence) is None
        ready = await store.profiles.ready(profiles.id, now=NOW, limit=9)
        assert ready.next_due is not None
        assert NOW < ready.next_due <= NOW + 1000

    async def test_an_event_carries_no_fields_while_a_write_to_its_address_is_in_flight(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        assert await claim_writes(store, fence)
        second = await _add_person_at(store, fence, "ada", balance=2)
        assert (await store.reads.fresh_views([second]))[second].write_in_flight

    async def test_a_person_who_left_keeps_or_loses_their_fields(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(person, "r1"))
        for at, rule, expected in ((LATER, "keep", None), (LATER + 9, "unset", {"balance": None})):
            await append_events(store, "ada", at=at)
            due = await store.reads.ready((await lanes(store))[1].id, now=Millis(at), limit=1)
            assert due.batch == 1
            gone = await claim_reads(store, fence, at)
            assert gone
            left = Gone(person, rule)  # type: ignore[arg-type]
            await store.reads.settle(gone, [left], now=Millis(at), policy=RetryPolicy(HORIZON))
            write = await claim_writes(store, fence, at, mode=DeliveryMode.SINGLE)
            assert (written_fields(write) if write else None) == expected

    async def test_a_new_account_starts_empty_and_receives_everything(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, _, profiles = await lanes(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1, tier="Gold")
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(person, "r1", "K1"))
        assert await claim_writes(store, fence) is None
        assert await store.profiles.reset_confirmed(profiles.id, now=NOW) == 1
        assert written_fields(await claim_writes(store, fence)) == {"balance": 1, "tier": "Gold"}

    async def test_mapping_versions_are_counted(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, _, profiles = await lanes(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        assert await store.profiles.count_outdated(profiles.id, "v1") == 0
        assert await store.profiles.count_outdated(profiles.id, "v2") == 1

    # ── people of whom an event tells the id alone ───────────────────────────────────────────────

    async def test_a_person_without_address_is_read_if_the_platform_reads_by_id(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        for who, by_id in (("ada", True), ("bob", False)):
            assert await _append_event(store, who, by_id=by_id) == Appended(1, 0, held=1)
        claim = await claim_reads(store, fence)
        assert claim
        assert [(e.unique_id, e.email) for e in claim.entries] == [("ada", None)]

    async def test_an_address_from_a_read_releases_the_events(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events, _, _ = await lanes(store)
        await _append_event(store, "ada")
        await _append_event(store, "ada")
        await _read_address(store, fence, "ada@example.com")
        claim = await take(store, events, fence)
        assert claim
        assert [e.email for e in claim.entries] == ["ada@example.com"] * 2
        assert await _append_event(store, "ada", at=LATER) == Appended(1, 0)

    async def test_waiting_events_go_to_the_newest_address(self, store: Store) -> None:
        """Not what was received after the read was sent: a later read tells of that."""
        fence = await acquire_lease(store)
        events, _, _ = await lanes(store)
        await _append_event(store, "ada")
        await _read_address(store, fence, "old@example.com")
        await _append_event(store, "ada", at=LATER, refresh=True)
        await _append_event(store, "ada", at=LATER + 10)
        await _read_address(store, fence, "new@example.com", at=LATER)
        claim = await take(store, events, fence, at=LATER + 10)
        assert claim
        assert [(e.received_at, e.email) for e in claim.entries] == [
            (NOW, "new@example.com"),
            (LATER, "new@example.com"),
            (LATER + 10, "old@example.com"),
        ]
        [entry] = await _claimed_after(store, fence, "ada", at=LATER + 20)
        assert entry.email == "new@example.com"

    async def test_an_older_read_does_not_revert_an_address(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events, reads, _ = await lanes(store)
        await _append_event(store, "ada")
        claim = await claim_reads(store, fence)
        assert claim
        named = record(email="new@example.com", person="ada")
        await store.outbox.append(
            [Page(events, "webhook", [named], LATER, read_lane=reads.id, by_id=True)]
        )
        await _settle_read(store, claim, "old@example.com", NOW)
        await _append_event(store, "ada", at=LATER)
        claim = await take(store, events, fence, at=LATER)
        assert claim
        assert {e.email for e in claim.entries} == {"new@example.com"}

    async def test_no_record_of_a_withheld_person_keeps_an_address(self, store: Store) -> None:
        """His events go without one, so that their lane skips and counts them."""
        fence = await acquire_lease(store)
        events, _, _ = await lanes(store)
        await _append_event(store, "ada")
        await _read_address(store, fence, "ada@example.com", balance=1)
        await _append_event(store, "ada", at=LATER, refresh=True)
        await _read_address(store, fence, None, at=LATER)
        claim = await take(store, events, fence, at=LATER)
        assert claim
        assert [e.email for e in claim.entries] == [None, None]
        assert await claim_writes(store, fence, LATER) is None
        person = claim.entries[0].person or 0
        assert (await store.reads.fresh_views([person]))[person].view == {"withheld": "restricted"}
        # Held until a read says what he is now.
        assert await _append_event(store, "ada", at=LATER + 10) == Appended(1, 0, held=1)
        await _read_address(store, fence, "ada@example.com", at=LATER + 10, balance=2)
        [entry] = (await take(store, events, fence, at=LATER + 10) or claim).entries
        assert entry.email == "ada@example.com"


async def _append_event(
    store: Store, who: str, *, at: int = NOW, refresh: bool = False, by_id: bool = True
) -> Appended:
    """An event that says only who it is about."""
    events, reads, _ = await lanes(store)
    said = record(email=None, person=who, refresh=refresh)
    page = Page(events, "webhook", [said], Millis(at), read_lane=reads.id, by_id=by_id)
    [appended] = await store.outbox.append([page])
    return appended


async def _read_address(
    store: Store, fence: Fence, email: str | None, *, at: int = NOW, **changes: Any
) -> None:
    """The one read that is due shows this address; None: nothing of the person may be told."""
    claim = await claim_reads(store, fence, at)
    assert claim
    await _settle_read(store, claim, email, at, **changes)


async def _settle_read(
    store: Store, claim: Claim, email: str | None, at: int, **changes: Any
) -> None:
    _, _, profiles = await lanes(store)
    [entry] = claim.entries
    observation = replace(make_observation(entry.seq, "x", at, profiles.id, **changes), email=email)
    if email is None:
        nobody: Any = {"identity": {}, "address": None, "problem": Problem.NO_IDENTITY}
        view = {"withheld": "restricted"}
        observation = replace(observation, view=view, withheld=True, **nobody)
    else:
        observation = replace(observation, identity={"email": email}, address=email.encode())
    await store.reads.settle(
        claim, [Observed(entry.seq, observation)], now=Millis(at), policy=RetryPolicy(HORIZON)
    )


async def _claimed_after(store: Store, fence: Fence, who: str, *, at: int) -> Sequence[Entry]:
    """The entries of one more event."""
    events, _, _ = await lanes(store)
    await _append_event(store, who, at=at)
    claim = await take(store, events, fence, at=at)
    return claim.entries if claim else []
