"""Tests that every store passes for reads of people. Subclass with a `store` fixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.outcomes import Dead, Observed, Outcome, Retry, Unsent
from connector.domain.records import Appended, Claim, Entry, Page
from connector.ports import Fence, RetryPolicy, Store
from connector.testing.contracts.profile_harness import (
    LATER,
    append_events,
    claim_reads,
    claim_writes,
    event_lane,
    lanes,
    make_observation,
    profile_lane,
    read,
)
from connector.testing.contracts.store import HORIZON, NOW, TTL, acquire_lease, record, take


class ReadsContract:
    """One behaviour per test."""

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
        await store.leases.renew([fence], now=Millis(ready.next_due), ttl=TTL)
        again = await claim_reads(store, fence, ready.next_due)
        assert again
        assert len(again.entries) == 1
        trailing = Observed(
            entry.seq, make_observation(entry.seq, "ada", ready.next_due, profiles.id)
        )
        await store.reads.settle(again, [trailing], now=ready.next_due, policy=RetryPolicy(HORIZON))
        assert (await store.reads.ready(reads.id, now=ready.next_due, limit=9)).next_due is None

    async def test_a_read_requested_during_a_read_causes_another_read(self, store: Store) -> None:
        """Also for an event that was received earlier: it may bring another address."""
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
        assert ready.batch == 1

    async def test_an_event_received_during_a_read_waits_for_the_next(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events, _, profiles = await lanes(store)
        await append_events(store, "ada", wait=1000)
        claim = await claim_reads(store, fence, NOW + 5)
        assert claim
        await append_events(store, "ada", at=NOW + 6, wait=1000)
        [entry] = claim.entries
        answer = Observed(entry.seq, make_observation(entry.seq, "ada", NOW + 5, profiles.id))
        await store.reads.settle(claim, [answer], now=Millis(NOW + 9), policy=RetryPolicy(HORIZON))
        assert (await store.outbox.ready(events.id, now=Millis(NOW + 9), limit=9)).batch == 1
        claim = await claim_reads(store, fence, NOW + 10)
        assert claim
        answer = Observed(entry.seq, make_observation(entry.seq, "ada", NOW + 10, profiles.id))
        await store.reads.settle(claim, [answer], now=Millis(NOW + 12), policy=RetryPolicy(HORIZON))
        assert (await store.outbox.ready(events.id, now=Millis(NOW + 12), limit=9)).batch == 2

    async def test_an_event_waits_only_for_a_read_that_can_be_in_time(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events = await event_lane(store)
        outcomes: Sequence[tuple[str, Callable[[int], Outcome], int]] = (
            ("ada", lambda seq: Retry(seq, Problem.PLATFORM_UNAVAILABLE, 0.5), 0),
            ("bob", lambda seq: Retry(seq, Problem.PLATFORM_UNAVAILABLE, 60.0), 1),
            ("eva", lambda seq: Dead(seq, Problem.PLATFORM_REFUSED), 2),
            ("ivo", Unsent, 3),
        )
        for name, outcome, ready in outcomes:
            await append_events(store, name, wait=1000)
            claim = await claim_reads(store, fence)
            assert claim
            [entry] = claim.entries
            await store.reads.settle(
                claim, [outcome(entry.seq)], now=Millis(NOW + 9), policy=RetryPolicy(HORIZON)
            )
            found = await store.outbox.ready(events.id, now=Millis(NOW + 9), limit=9)
            assert found.batch == ready, name

    async def test_an_event_that_waited_goes_before_its_persons_profile(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada", wait=1000)
        await read(store, fence, "ada", NOW + 9, balance=7)
        assert await claim_writes(store, fence, NOW + 9) is None
        assert await claim_writes(store, fence, NOW + 9 + 2_001), "it holds nothing up"

    async def test_an_event_waits_for_its_persons_read(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events = await event_lane(store)
        await append_events(store, "ada", wait=1000)
        assert (await store.outbox.ready(events.id, now=NOW, limit=9)).batch == 0
        person = await read(store, fence, "ada", balance=7)
        assert (await store.outbox.ready(events.id, now=NOW, limit=9)).batch == 1
        fresh = (await store.reads.fresh_views([person]))[person]
        assert (fresh.view["balance"], fresh.at, fresh.write_in_flight) == (7, NOW, False)
        await append_events(store, "bob", wait=1000)
        assert (await store.outbox.ready(events.id, now=Millis(NOW + 1000), limit=9)).batch == 2

    async def test_a_person_without_address_is_read_if_the_platform_reads_by_id(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        for name, by_id in (("ada", True), ("bob", False)):
            assert await _append_event(store, name, by_id=by_id) == Appended(1, 0, held=1)
        claim = await claim_reads(store, fence)
        assert claim
        assert [(e.unique_id, e.email) for e in claim.entries] == [("ada", None)]

    async def test_an_address_from_a_read_releases_the_events(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events = await event_lane(store)
        await _append_event(store, "ada")
        await _append_event(store, "ada")
        await _read_address(store, fence, "ada@example.com")
        claim = await take(store, events, fence)
        assert claim
        assert [e.email for e in claim.entries] == ["ada@example.com"] * 2
        assert await _append_event(store, "ada", at=LATER) == Appended(1, 0)

    async def test_waiting_events_go_to_the_newest_address(self, store: Store) -> None:
        """Except the events received after the read was sent: a later read is newer for them."""
        fence = await acquire_lease(store)
        events = await event_lane(store)
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
        """Their events lose the address, so that the lane skips and counts them."""
        fence = await acquire_lease(store)
        events = await event_lane(store)
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
        # Held until a read shows the current state.
        assert await _append_event(store, "ada", at=LATER + 10) == Appended(1, 0, held=1)
        await _read_address(store, fence, "ada@example.com", at=LATER + 10, balance=2)
        [entry] = (await take(store, events, fence, at=LATER + 10) or claim).entries
        assert entry.email == "ada@example.com"


async def _append_event(
    store: Store, name: str, *, at: int = NOW, refresh: bool = False, by_id: bool = True
) -> Appended:
    """An event with a person but without an address."""
    events, reads, _ = await lanes(store)
    event = record(email=None, person=name, refresh=refresh)
    page = Page(events, "webhook", [event], Millis(at), read_lane=reads.id, by_id=by_id)
    [appended] = await store.outbox.append([page])
    return appended


async def _read_address(
    store: Store, fence: Fence, email: str | None, *, at: int = NOW, **changes: Any
) -> None:
    """The only read that is due shows this address; None: the person is withheld."""
    claim = await claim_reads(store, fence, at)
    assert claim
    await _settle_read(store, claim, email, at, **changes)


async def _settle_read(
    store: Store, claim: Claim, email: str | None, at: int, **changes: Any
) -> None:
    profiles = await profile_lane(store)
    [entry] = claim.entries
    observation = replace(make_observation(entry.seq, "x", at, profiles.id, **changes), email=email)
    if email is None:
        no_identity: Any = {"identity": {}, "address": None, "problem": Problem.NO_IDENTITY}
        view = {"withheld": "restricted"}
        observation = replace(observation, view=view, withheld=True, **no_identity)
    else:
        observation = replace(observation, identity={"email": email}, address=email.encode())
    await store.reads.settle(
        claim, [Observed(entry.seq, observation)], now=Millis(at), policy=RetryPolicy(HORIZON)
    )


async def _claimed_after(store: Store, fence: Fence, name: str, *, at: int) -> Sequence[Entry]:
    """The entries of one more event."""
    events = await event_lane(store)
    await _append_event(store, name, at=at)
    claim = await take(store, events, fence, at=at)
    return claim.entries if claim else []
