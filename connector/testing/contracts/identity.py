"""The contract of people and their identifiers. Subclass it beside a fixture `store` that yields an
empty store.

Two identifiers that turn out to be one person's make two people one, with everything they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from connector.domain.actions import Action, ActionRequest, Caps
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.outcomes import Accepted, Ambiguous, Held, Observed, Pending, Retry
from connector.domain.profile_state import write_from_json
from connector.domain.records import Page
from connector.ports import Fence, RetryPolicy, Settled, Store
from connector.testing.contracts.actions import ActionHarness, make_harness, make_request
from connector.testing.contracts.bulk_observations import listed_person
from connector.testing.contracts.profile_harness import (
    LATER,
    claim_reads,
    claim_writes,
    event_lane,
    lanes,
    make_observation,
    profile_lane,
    settle,
    written_fields,
)
from connector.testing.contracts.store import HORIZON, NOW, record

_ADA = "ada@example.com"


async def append(store: Store, *, at: int = NOW, **who: Any) -> None:
    """One event about a person, who is read."""
    events, reads, _ = await lanes(store)
    one = record(**{"email": None, "person": None, "refresh": True, **who})
    page = Page(events, "webhook", [one], Millis(at), read_lane=reads.id, by_id=True)
    await store.outbox.append([page])


async def find_one(store: Store, identifier: str) -> int:
    [person] = await store.timelines.find("acme", identifier)
    return person


async def read_shows(
    store: Store,
    fence: Fence,
    *aliases: str,
    at: int = NOW,
    email: str | None = _ADA,
    **changes: Any,
) -> None:
    """Settle the only read that is due: it shows these ids and this address."""
    profiles = await profile_lane(store)
    claim = await claim_reads(store, fence, at)
    assert claim
    [entry] = claim.entries
    shown = make_observation(entry.seq, "ada", at, profiles.id, **changes)
    shown = replace(shown, aliases=aliases, email=email)
    policy = RetryPolicy(HORIZON)
    assert await store.reads.settle(
        claim, [Observed(entry.seq, shown)], now=Millis(at), policy=policy
    )


async def settle_reads(
    store: Store, fence: Fence, shown: Mapping[str, tuple[tuple[str, ...], str | None]]
) -> None:
    """Settle the reads of these people at once: identifier → the ids and the address shown."""
    profiles = await profile_lane(store)
    claim = await claim_reads(store, fence, LATER)
    assert claim
    outcomes = []
    for identifier, (aliases, email) in shown.items():
        person = await find_one(store, identifier)
        seen = make_observation(person, identifier, LATER, profiles.id, balance=1)
        outcomes.append(Observed(person, replace(seen, aliases=aliases, email=email)))
    assert await store.reads.settle(claim, outcomes, now=LATER, policy=RetryPolicy(HORIZON))


async def hold(harness: ActionHarness, *requests: ActionRequest, at: int = NOW) -> None:
    """Store actions that the platform cannot find the person of."""
    await harness.add(*requests, now=at)
    while claim := await harness.claim(at):
        await harness.settle(
            claim, *(Held(e.seq, Problem.ACTION_PERSON) for e in claim.entries), now=at
        )


async def release(harness: ActionHarness, caps: Caps, at: int = LATER) -> int:
    decisions = harness.store.action_decisions
    return await decisions.release_identified(harness.lane, caps=caps, now=Millis(at))


CAPS = Caps(per_person=20)


class IdentityContract:
    """One behaviour per test."""

    # ── who is one ───────────────────────────────────────────────────────────────────────────────

    async def test_an_address_becomes_the_person_who_has_it_and_an_id(self, store: Store) -> None:
        await append(store, email=_ADA)
        first = await find_one(store, _ADA)
        await append(store, person="7")
        await append(store, person="7", email=_ADA, at=LATER)
        assert await find_one(store, _ADA) == await find_one(store, "7")
        merged = await find_one(store, "7")
        state = await store.timelines.person(merged, 10)
        assert (state.platform_id, state.email) == ("7", _ADA)
        assert len(state.timeline) == 3
        assert await store.people.count("acme") == 1
        assert first != merged or state.platform_id == "7"

    async def test_ids_that_one_read_shows_are_one_person(self, store: Store) -> None:
        harness = await make_harness(store)
        await append(store, person="crm-1")
        await append(store, person="1000001", email=_ADA)
        claim = await claim_reads(store, harness.fence)
        assert claim
        first, other = claim.entries
        profiles = await profile_lane(store)
        shown = make_observation(first.seq, "ada", NOW, profiles.id, balance=1)
        shown = replace(shown, aliases=("crm-1", "uuid", "1000001"), email=_ADA)
        policy = RetryPolicy(HORIZON)
        await store.reads.settle(claim, [Observed(first.seq, shown)], now=NOW, policy=policy)
        found = {await find_one(store, id) for id in ("crm-1", "uuid", "1000001", _ADA)}
        assert len(found) == 1
        # The read of the other one that was in flight has no person to settle: one is read again.
        late = Observed(other.seq, replace(shown, person=other.seq))
        assert await store.reads.settle(claim, [late], now=NOW, policy=policy) == Settled(0)
        assert await claim_reads(store, harness.fence, LATER + 60_000)

    async def test_ids_that_a_listing_shows_are_one_person(self, store: Store) -> None:
        _, reads, profiles = await lanes(store)
        await append(store, person="crm-1")
        await append(store, person="1000001")
        one = listed_person("ada", NOW, profiles.id, id="crm-1", balance=1)
        await store.reads.bulk_observe(reads, [replace(one, aliases=("1000001",))], now=NOW)
        assert await find_one(store, "crm-1") == await find_one(store, "1000001")

    async def test_an_address_of_two_people_with_ids_is_shared(self, store: Store) -> None:
        await append(store, person="1", email=_ADA)
        await append(store, person="2", email=_ADA, at=LATER)
        first, second = await find_one(store, "1"), await find_one(store, "2")
        assert first != second
        assert await store.timelines.find("acme", _ADA) == sorted((first, second))
        await append(store, email=_ADA, at=LATER + 1)
        assert len((await store.timelines.person(second, 10)).timeline) == 2

    async def test_people_of_other_connections_are_others(self, store: Store) -> None:
        await append(store, person="1", email=_ADA)
        other = await store.lanes.ensure("other", "klaviyo", "event")
        one = record(person="1", email=_ADA)
        await store.outbox.append([Page(other, "webhook", [one], NOW)])
        assert await find_one(store, "1") not in await store.timelines.find("other", "1")

    async def test_a_merge_within_one_commit_leaves_no_one_behind(self, store: Store) -> None:
        events, reads, _ = await lanes(store)
        records = [
            record(email=_ADA, person=None, refresh=True),
            record(email=None, person="7", refresh=True),
            record(email=_ADA, person="7", refresh=True),
            record(email=_ADA, person=None, refresh=True),
        ]
        page = Page(events, "webhook", records, NOW, read_lane=reads.id, by_id=True)
        [appended] = await store.outbox.append([page])
        assert (appended.accepted, appended.held, appended.released) == (4, 0, 1)
        person = await find_one(store, "7")
        assert len((await store.timelines.person(person, 10)).timeline) == 4

    async def test_the_number_of_a_merged_person_is_not_used_again(self, store: Store) -> None:
        events = await event_lane(store)
        await append(store, person="7")
        await append(store, email=_ADA)
        records = [record(email=_ADA, person="7"), record(email=None, person="8")]
        await store.outbox.append([Page(events, "webhook", records, LATER)])
        eighth = await store.timelines.person(await find_one(store, "8"), 10)
        assert (eighth.platform_id, eighth.email, len(eighth.timeline)) == ("8", None, 1)

    async def test_a_known_person_stays_found_after_a_merge(self, store: Store) -> None:
        """What one process remembers of people must not outlive a merge by another."""
        harness = await make_harness(store)
        await append(store, email=_ADA)
        await append(store, email=_ADA, at=NOW + 1)
        await append(store, person="7", at=NOW + 2)
        claim = await claim_reads(store, harness.fence, NOW + 2)
        assert claim
        seq = next(e.seq for e in claim.entries if e.unique_id == "7")
        profiles = await profile_lane(store)
        shown = replace(make_observation(seq, "ada", NOW + 3, profiles.id), email=_ADA)
        policy = RetryPolicy(HORIZON)
        await store.reads.settle(claim, [Observed(seq, shown)], now=Millis(NOW + 3), policy=policy)
        await append(store, email=_ADA, at=LATER)
        person = await find_one(store, "7")
        assert len((await store.timelines.person(person, 10)).timeline) == 4

    # ── what waits ───────────────────────────────────────────────────────────────────────────────

    async def test_records_that_wait_for_an_address_are_released(self, store: Store) -> None:
        harness = await make_harness(store)
        await append(store, person="7")
        await append(store, email=_ADA)
        await append(store, person="7", email=_ADA, at=LATER)
        events = await event_lane(store)
        claim = await store.outbox.claim(
            events, harness.fence, now=LATER, limit=10, mode=DeliveryMode.BATCH, mapping=""
        )
        assert claim
        assert [entry.email for entry in claim.entries] == [_ADA] * 3

    async def test_actions_that_wait_for_an_id_are_released_when_a_read_shows_it(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await hold(harness, make_request(_ADA, key="1"), make_request(_ADA, key="2"))
        assert await release(harness, CAPS) == 0
        await append(store, person="7")
        assert await release(harness, CAPS) == 0
        await read_shows(store, harness.fence, "7")
        assert await release(harness, CAPS) == 2
        claim = await harness.must_claim(LATER)
        assert b'"person":"7"' in claim.entries[0].data

    async def test_actions_by_an_unknown_id_are_released_when_it_is_known(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        by_id = ActionRequest(Action("adjust", customer="7", amount=5), "points/adjust", "1")
        await hold(harness, by_id)
        await append(store, person="7", email=_ADA, at=LATER)
        assert await release(harness, CAPS) == 1
        [entry] = (await harness.must_claim(LATER)).entries
        assert entry.email == _ADA

    async def test_what_becomes_known_while_an_action_is_sent_is_not_missed(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await harness.add(make_request(_ADA))
        claim = await harness.must_claim()
        await append(store, person="7", email=_ADA)
        held = Held(claim.entries[0].seq, Problem.ACTION_PERSON)
        await harness.settle(claim, held)
        assert (await harness.one()).state == "waiting"
        claim = await harness.must_claim()
        await harness.settle(claim, Held(claim.entries[0].seq, Problem.ACTION_PERSON))
        assert (await harness.one()).state == "held"
        assert await release(harness, CAPS) == 0

    async def test_an_action_that_a_person_sent_again_is_refused_and_not_held(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await hold(harness, make_request(_ADA))
        id = (await harness.one()).id
        await store.action_decisions.decide(id, "again", by="ana", now=NOW)
        claim = await harness.must_claim()
        await harness.settle(claim, Held(id, Problem.ACTION_PERSON, "no id"))
        view = await harness.one()
        assert (view.state, view.problem, view.detail) == ("refused", "A40", "no id")

    # ── order and caps ───────────────────────────────────────────────────────────────────────────

    async def test_caps_count_both_people_and_hold_after_a_release(self, store: Store) -> None:
        harness, caps = await make_harness(store), Caps(per_person=3)
        by_id = ActionRequest(Action("adjust", person="7", amount=5), "points/adjust", "id")
        await append(store, person="7")
        await harness.add(by_id, caps=caps)
        claim = await harness.must_claim()
        await harness.settle(claim, Accepted(claim.entries[0].seq, "r"))
        await hold(harness, *(make_request(_ADA, key=str(n)) for n in range(4)))
        await read_shows(store, harness.fence, "7")
        assert await release(harness, caps) == 2
        states = [(v.state, v.problem) for v in await harness.all_actions()]
        assert states == [
            ("applied", None),
            ("waiting", None),
            ("waiting", None),
            ("held", "A20"),
            ("held", "A20"),
        ]
        [approval] = await store.approvals.find()
        assert approval.detail["adjustments"] == 2
        later = ActionRequest(Action("adjust", person="7", amount=5), "points/adjust", "late")
        answer = await harness.add(later, caps=caps, now=LATER)
        assert answer.held == 1  # type: ignore[union-attr]

    async def test_released_actions_count_from_their_release_on(self, store: Store) -> None:
        """Calls of many days must not be applied in one."""
        harness, caps = await make_harness(store), Caps(per_person=2, total=150)
        day = 86_400_000
        for n in range(4):
            await hold(harness, make_request(_ADA, 50, key=str(n)), at=NOW + n * day)
        await append(store, person="7", email=_ADA, at=NOW + 9 * day)
        assert await release(harness, caps, NOW + 9 * day) == 2
        [held, *_] = await store.approvals.find()
        assert held.subject == "daily_per_person"

    async def test_an_approved_cap_does_not_release_beyond_the_other_one(
        self, store: Store
    ) -> None:
        harness, caps = await make_harness(store), Caps(per_person=1, total=250)
        await harness.add(*(make_request(_ADA, 100, key=str(n)) for n in range(4)), caps=caps)
        [question] = await store.approvals.find()
        answer = await store.approvals.decide(question.id, approved=True, by="ana", now=NOW)
        assert answer
        released = await store.action_decisions.resolve_cap(
            harness.lane, answer, caps=caps, now=LATER
        )
        assert released == 1
        problems = [view.problem for view in await harness.all_actions()]
        assert problems == [None, None, "A30", "A30"]
        [question] = await store.approvals.find()
        assert question.subject == "daily_total"

    async def test_the_actions_of_a_merged_person_start_in_order(self, store: Store) -> None:
        harness = await make_harness(store)
        by_id = ActionRequest(Action("adjust", person="7", amount=5), "points/adjust", "id")
        await append(store, person="7")
        await harness.add(by_id, make_request(_ADA, key="2"))
        assert (await harness.ready())[0] == 2
        await read_shows(store, harness.fence, "7")
        assert (await harness.ready())[0] == 1
        claim = await harness.must_claim()
        retry = Retry(claim.entries[0].seq, Problem.PLATFORM_THROTTLED, 5.0)
        await harness.settle(claim, retry)
        assert (await harness.ready())[0] == 0

    # ── profiles ─────────────────────────────────────────────────────────────────────────────────

    async def test_the_newer_value_of_each_field_wins(self, store: Store) -> None:
        harness = await make_harness(store)
        await append(store, email=_ADA)
        await read_shows(store, harness.fence, at=NOW, email=None, balance=1, tier="Gold")
        await append(store, person="7", at=LATER)
        await read_shows(store, harness.fence, "7", at=LATER, balance=2)
        assert written_fields(await claim_writes(store, harness.fence, LATER)) == {
            "balance": 2,
            "tier": "Gold",
        }

    async def test_a_confirmed_field_is_not_sent_again(self, store: Store) -> None:
        harness = await make_harness(store)
        await append(store, email=_ADA)
        await read_shows(store, harness.fence, at=NOW, email=None, balance=1, tier="Gold")
        claim = await claim_writes(store, harness.fence)
        assert claim
        await settle(store, claim, Accepted(claim.entries[0].seq, "r"))
        await append(store, person="7", at=LATER)
        await read_shows(store, harness.fence, "7", at=LATER, balance=2, tier="Gold")
        assert written_fields(await claim_writes(store, harness.fence, LATER)) == {"balance": 2}

    async def test_a_write_in_flight_is_followed_by_one_of_the_merged_person(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await append(store, email=_ADA)
        await read_shows(store, harness.fence, at=NOW, email=None, balance=1, tier="Gold")
        first = await claim_writes(store, harness.fence)
        assert first
        await append(store, person="7", at=LATER)
        await read_shows(store, harness.fence, "7", at=LATER, balance=2)
        assert await claim_writes(store, harness.fence, LATER) is None, "one write at a time"
        await settle(store, first, Accepted(first.entries[0].seq, "r"), at=LATER)
        claim = await claim_writes(store, harness.fence, LATER)
        assert written_fields(claim)["balance"] == 2
        assert claim
        await settle(store, claim, Accepted(claim.entries[0].seq, "r"), at=LATER)
        assert await claim_writes(store, harness.fence, LATER + 60_000) is None
        assert len(await store.ledger.sample_people(claim.lane.id, 10)) == 1

    async def test_no_write_of_the_merged_person_crosses_one_that_may_still_be_applied(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await append(store, email=_ADA)
        await read_shows(store, harness.fence, at=NOW, email=None, balance=1)
        claim = await claim_writes(store, harness.fence)
        assert claim
        await append(store, person="7", at=LATER)
        await read_shows(store, harness.fence, "7", at=LATER, balance=2)
        lost = Ambiguous(claim.entries[0].seq, Problem.TIMED_OUT)
        await settle(store, claim, lost, at=LATER)
        assert await claim_writes(store, harness.fence, LATER + 1) is None
        at = Millis(LATER + 30_000)
        await store.leases.renew([harness.fence], now=at, ttl=60_000)
        assert written_fields(await claim_writes(store, harness.fence, at)) == {"balance": 2}

    async def test_a_write_that_a_job_holds_is_followed_by_one_of_the_merged_person(
        self, store: Store
    ) -> None:
        harness = await make_harness(store)
        await append(store, email=_ADA)
        await read_shows(store, harness.fence, at=NOW, email=None, balance=1)
        first = await claim_writes(store, harness.fence)
        assert first
        await settle(store, first, Pending(first.entries[0].seq, "job", 0, "r"))
        await append(store, person="7", at=LATER)
        await read_shows(store, harness.fence, "7", at=LATER, balance=2)
        assert await claim_writes(store, harness.fence, LATER) is None
        lane = first.lane.id
        assert await store.profile_receipts.close_receipt(lane, "job", now=LATER, failed={}) == 1
        claim = await claim_writes(store, harness.fence, LATER)
        assert claim
        assert write_from_json(claim.entries[0].data).sets == {"balance": 2}
        assert len(claim.entries) == 1

    # ── erasure ──────────────────────────────────────────────────────────────────────────────────

    async def test_forget_erases_all_identifiers(self, store: Store) -> None:
        harness = await make_harness(store)
        await append(store, person="crm-1", email="old@example.com")
        await append(store, person="crm-1", email=_ADA, at=NOW + 1)
        await append(store, person="9", at=NOW + 1)
        claim = await claim_reads(store, harness.fence, NOW + 1)
        assert claim
        seq = next(e.seq for e in claim.entries if e.unique_id == "crm-1")
        profiles = await profile_lane(store)
        shown = replace(
            make_observation(seq, "ada", NOW + 1, profiles.id),
            aliases=("crm-1", "9", "1000001"),
            email=_ADA,
        )
        policy = RetryPolicy(HORIZON)
        await store.reads.settle(claim, [Observed(seq, shown)], now=Millis(NOW + 1), policy=policy)
        found = await store.erasure.find("acme", "old@example.com")
        assert (found.people, sorted(found.emails)) == (1, [_ADA, "old@example.com"])
        assert (await store.erasure.forget("acme", "1000001", now=LATER)).people == 1
        for id in ("crm-1", "9", "1000001", _ADA, "old@example.com"):
            assert not await store.timelines.find("acme", id)
            assert (await store.erasure.find("acme", id)).people == 0
            events = await event_lane(store)
            who = {"email": id} if "@" in id else {"person": id, "email": None}
            [appended] = await store.outbox.append(
                [Page(events, "webhook", [record(**who)], LATER)]
            )
            assert appended.forgotten == 1, id

    async def test_a_read_that_shows_an_erased_id_gives_no_one_its_address(
        self, store: Store
    ) -> None:
        """Two people are known by former addresses only, and have one address now."""
        harness = await make_harness(store)
        await append(store, person="7")
        await store.erasure.forget("acme", "7", now=NOW)
        await append(store, email="old@example.com")
        await append(store, email="older@example.com")
        await settle_reads(
            store,
            harness.fence,
            {"old@example.com": ((), _ADA), "older@example.com": (("7",), _ADA)},
        )
        assert len(await store.timelines.find("acme", _ADA)) == 1
        erased = await store.timelines.person(await find_one(store, "older@example.com"), 10)
        assert erased.email == "older@example.com"
