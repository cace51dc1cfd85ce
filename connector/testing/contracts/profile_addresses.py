"""Tests that every store passes for profiles that change or share an address. Subclass with a
`store` fixture."""

from __future__ import annotations

from typing import Any

import pytest

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.outcomes import Accepted, Gone, Observed, Retry
from connector.domain.profile_state import write_from_json
from connector.domain.profiles import EmailChange, OnLeave
from connector.domain.records import Page
from connector.ports import Fence, RetryPolicy, Store
from connector.testing.contracts.profile_harness import (
    LATER,
    append_events,
    claim_reads,
    claim_writes,
    lanes,
    make_observation,
    read,
    settle,
    written_fields,
)
from connector.testing.contracts.store import HORIZON, acquire_lease, record


class ProfileAddressesContract:
    """One behaviour per test."""

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
        cleanup = await claim_writes(store, fence, LATER, mode=DeliveryMode.SINGLE)
        assert cleanup
        write = write_from_json(cleanup.entries[0].data)
        assert (write.identity, write.unsets) == ({"email": "ada@example.com"}, ("balance",))
        await settle(store, cleanup, Accepted(person, "r2"), at=LATER)
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
        cleanup = await claim_writes(store, fence, at, mode=DeliveryMode.SINGLE)
        assert cleanup
        await settle(store, cleanup, Accepted(second, "r3"), at=at)
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
        in_flight = await claim_writes(store, fence)
        assert in_flight
        second = await _add_person_at(store, fence, "ada", balance=2)
        assert await claim_writes(store, fence, LATER) is None
        await settle(store, in_flight, Retry(first, Problem.KLAVIYO_THROTTLED), at=LATER)
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
        rules: tuple[tuple[int, OnLeave], ...] = ((LATER + 10, "keep"), (LATER + 20, "unset"))
        for at, rule in rules:
            await append_events(store, "ada", at=at)
            gone = await claim_reads(store, fence, at)
            assert gone
            outcomes = [Gone(entry.seq, rule) for entry in gone.entries if entry.seq == first]
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
        new_owner = await _add_person_at(store, fence, "ada", LATER + 1, balance=7)
        # The new owner's write goes first, and what it may lack comes with the next one.
        writes: dict[int, dict[str, Any]] = {person: {}, new_owner: {}}
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
            new_owner: {"balance": 7, "tier": None},
        }

    @pytest.mark.parametrize("email_change", ["new", "move"])
    async def test_two_people_who_exchange_their_addresses_leave_each_other_no_fields(
        self, store: Store, email_change: EmailChange
    ) -> None:
        fence = await acquire_lease(store)
        events, reads, _ = await lanes(store)
        ada, bob = "ada@example.com", "bob@example.com"
        people: dict[str, int] = {}
        at_klaviyo: dict[str, dict[str, Any]] = {
            ada: {"balance": 1, "tier": "Gold"},
            bob: {"balance": 2, "code": "X"},
        }
        for name in ("ada", "bob"):
            await append_events(store, name)
            people[name] = await read(store, fence, name, **at_klaviyo[f"{name}@example.com"])
            claim = await claim_writes(store, fence)
            assert claim
            await settle(store, claim, Accepted(people[name], "r1", f"K{name}"))
        for name, email in (("ada", bob), ("bob", ada)):
            moved = record(email=email, person=name, refresh=True)
            await store.outbox.append([Page(events, "webhook", [moved], LATER, read_lane=reads.id)])
            changes: dict[str, Any] = {"tier" if name == "ada" else "code": None}
            to = email.partition("@")[0]
            found = await read(store, fence, to, LATER, email_change=email_change, **changes)
            assert found == people[name]
        for at in range(LATER + 1, LATER + 16):
            mode = DeliveryMode.SINGLE if at % 2 else DeliveryMode.BATCH
            claim = await claim_writes(store, fence, at, mode=mode)
            for entry in claim.entries if claim else ():
                write = write_from_json(entry.data)
                assert not write.pending_move
                fields = at_klaviyo[write.identity["email"]] | dict(write.sets)
                at_klaviyo[write.identity["email"]] = {
                    field: value for field, value in fields.items() if field not in write.unsets
                }
                assert claim
                await settle(store, claim, Accepted(entry.seq, "r"), at=at)
        assert at_klaviyo == {ada: {"balance": 2}, bob: {"balance": 1}}, at_klaviyo

    @pytest.mark.parametrize("order", [("ada", "bob"), ("bob", "ada")])
    async def test_an_address_that_one_person_leaves_to_another_in_one_batch_of_reads(
        self, store: Store, order: tuple[str, str]
    ) -> None:
        fence = await acquire_lease(store)
        events, reads, profiles = await lanes(store)
        people = {}
        for name in ("ada", "bob"):
            await append_events(store, name)
            people[name] = await read(store, fence, name, balance=1)
        moves = {"ada": "new", "bob": "ada"}
        records = [
            record(email=f"{to}@example.com", person=name, refresh=True)
            for name, to in moves.items()
        ]
        await store.outbox.append([Page(events, "webhook", records, LATER, read_lane=reads.id)])
        claim = await claim_reads(store, fence, LATER)
        assert claim
        outcomes = [
            Observed(id := people[name], make_observation(id, moves[name], LATER, profiles.id))
            for name in order
        ]
        policy = RetryPolicy(HORIZON)
        await store.reads.settle(claim, outcomes, now=LATER, policy=policy)
        written: dict[str, set[int]] = {}
        for at in range(LATER + 1, LATER + 12):
            mode = DeliveryMode.SINGLE if at % 2 else DeliveryMode.BATCH
            writes = await claim_writes(store, fence, at, mode=mode)
            for entry in writes.entries if writes else ():
                write = write_from_json(entry.data)
                if not write.is_cleanup:
                    written.setdefault(write.identity["email"], set()).add(entry.seq)
                assert writes
                failed = at < LATER + 3
                again = Retry(entry.seq, Problem.KLAVIYO_UNAVAILABLE, 0.0)
                await settle(store, writes, again if failed else Accepted(entry.seq, "r"), at=at)
        assert written == {
            "new@example.com": {people["ada"]},
            "ada@example.com": {people["bob"]},
        }, written

    async def test_a_person_who_is_just_leaving_an_address_is_not_held_for_its_next_owner(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        events, reads, _ = await lanes(store)
        await append_events(store, "ada")
        ada = await read(store, fence, "ada", balance=1)
        first = await claim_writes(store, fence)
        assert first
        await settle(store, first, Accepted(ada, "r1"))
        moved = record(email="new@example.com", person="ada", refresh=True)
        await store.outbox.append([Page(events, "webhook", [moved], LATER, read_lane=reads.id)])
        await read(store, fence, "new", LATER)
        cleanup = await claim_writes(store, fence, LATER, mode=DeliveryMode.SINGLE)
        assert cleanup
        bob = await _add_person_at(store, fence, "ada", LATER + 1, balance=7)
        await settle(store, cleanup, Accepted(ada, "r2"), at=LATER + 2)
        writes = await claim_writes(store, fence, LATER + 3)
        assert writes
        assert {e.seq: e.email for e in writes.entries} == {
            ada: "new@example.com",
            bob: "ada@example.com",
        }

    async def test_an_event_carries_no_fields_while_a_write_to_its_address_is_in_flight(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        assert await claim_writes(store, fence)
        second = await _add_person_at(store, fence, "ada", balance=2)
        assert (await store.reads.fresh_views([second]))[second].write_in_flight


async def _add_person_at(
    store: Store, fence: Fence, name: str, at: int = LATER, **changes: Any
) -> int:
    """Another person gets this address and is read."""
    events, reads, _ = await lanes(store)
    twin = record(email=f"{name}@example.com", person="twin", refresh=True)
    await store.outbox.append([Page(events, "webhook", [twin], Millis(at), read_lane=reads.id)])
    return await read(store, fence, name, at, **changes)


async def _add_two_at_one_address(
    store: Store, fence: Fence, one: dict[str, Any], other: dict[str, Any]
) -> tuple[int, int]:
    """The first person is written before the second one gets the address."""
    await append_events(store, "ada")
    first = await read(store, fence, "ada", **one)
    claim = await claim_writes(store, fence)
    assert claim
    await settle(store, claim, Accepted(first, "r1"))
    return first, await _add_person_at(store, fence, "ada", **other)
