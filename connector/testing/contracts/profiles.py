"""Tests that every store passes for the writes of profiles. Subclass with a `store` fixture."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Millis
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
from connector.domain.profiles import ALONE_AFTER, OnLeave
from connector.ports import RetryPolicy, Settled, Store
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
    settle,
    written_fields,
)
from connector.testing.contracts.store import HORIZON, NOW, TTL, acquire_lease, take_over


class ProfilesContract:
    """One behaviour per test."""

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
        # Its holder dies. Another one reads before the first answer arrives.
        assert await store.reads.recover(fence, now=LATER) == 1
        await read(store, fence, "ada", LATER, balance=2)
        late = Observed(person, make_observation(person, "ada", NOW, profiles.id, balance=1))
        settled = await store.reads.settle(old, [late], now=LATER, policy=RetryPolicy(HORIZON))
        assert settled == Settled(0)
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
        events = await event_lane(store)
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

    async def test_a_profile_waits_while_an_ambiguous_event_may_still_be_applied(
        self, store: Store
    ) -> None:
        """Also one whose holder has died, although it is sent again at once."""
        fence = await acquire_lease(store)
        events = await event_lane(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        for at, ends in ((NOW, "ambiguous"), (NOW + 31_000, "recovered")):
            fence, mode = await acquire_lease(store, now=at), DeliveryMode(at > NOW)
            sent = await store.outbox.claim(
                events, fence, now=Millis(at), limit=1, mode=mode, mapping="v1"
            )
            assert sent
            if ends == "ambiguous":
                timed_out = Ambiguous(sent.entries[0].seq, Problem.TIMED_OUT)
                await store.outbox.settle(
                    sent, [timed_out], now=Millis(at), policy=RetryPolicy(HORIZON)
                )
            else:
                await store.outbox.recover(fence, now=Millis(at))
            fence = await acquire_lease(store, now=at + 29_000)
            assert await claim_writes(store, fence, at + 29_000) is None
        fence = await acquire_lease(store, now=NOW + 62_000)
        assert written_fields(await claim_writes(store, fence, NOW + 62_000)) == {"balance": 1}

    async def test_a_job_confirms_only_through_its_receipt(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
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
        profiles = await profile_lane(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        receipts, at = store.profile_receipts, int(LATER)
        for lost_jobs in range(ALONE_AFTER + 1):
            assert claim
            assert orjson.loads(claim.entries[0].data)["lost_jobs"] == lost_jobs
            await settle(store, claim, Pending(person, "?r1", 0, "r1"))
            assert await receipts.requeue_receipt(profiles.id, "?r1", now=Millis(at)) == 1
            at += 1
            claim = await claim_writes(store, fence, at)
        # The last job held no one else, so a single request says what is wrong with the person.
        assert claim is None
        assert written_fields(await claim_writes(store, fence, at, mode=DeliveryMode.SINGLE)) == {
            "balance": 1
        }

    async def test_a_lost_job_counts_until_a_write_succeeds(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Pending(person, "?r1", 0, "r1"))
        await store.profile_receipts.requeue_receipt(profiles.id, "?r1", now=LATER)
        claim = await claim_writes(store, fence, LATER)
        assert claim
        await settle(store, claim, Pending(person, "job", 0, "r2"))
        await store.profile_receipts.close_receipt(profiles.id, "job", now=LATER, failed={})
        await append_events(store, "ada", at=LATER + 1)
        await read(store, fence, "ada", LATER + 1, balance=2)
        claim = await claim_writes(store, fence, LATER + 1)
        assert claim
        assert orjson.loads(claim.entries[0].data)["lost_jobs"] == 0

    async def test_each_lost_request_has_its_own_age(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        for at, name in ((NOW, "ada"), (NOW + 2_000, "bob")):
            await append_events(store, name, at=at)
            person = await read(store, fence, name, at, balance=1)
            claim = await claim_writes(store, fence, at)
            assert claim
            await settle(store, claim, Pending(person, f"?{name}", 0, name), at=at)
        found = await store.profile_receipts.open_receipts(profiles.id)
        assert sorted((r.id, r.since, r.is_unknown) for r in found) == [
            ("?ada", NOW, True),
            ("?bob", NOW + 2_000, True),
        ]

    async def test_writes_of_a_dead_holder_stay_in_flight_until_accounted_for(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        other = await take_over(store, fence, "two", NOW + TTL)
        assert await store.profiles.recover(other, now=Millis(NOW + TTL)) == 1
        assert await claim_writes(store, other, NOW + TTL) is None
        [receipt] = await store.profile_receipts.open_receipts(profiles.id)
        assert receipt.is_unknown
        requeued = Millis(NOW + TTL)
        await store.profile_receipts.requeue_receipt(profiles.id, receipt.id, now=requeued)
        assert written_fields(await claim_writes(store, other, NOW + TTL)) == {"balance": 1}
        assert await settle(store, claim, Accepted(person, "late")) == 0

    async def test_an_unset_in_flight_when_its_holder_died_is_repeated(self, store: Store) -> None:
        """The earlier confirmation no longer holds: the unset may have been applied."""
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
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
        other = await take_over(store, fence, "two", at)
        await store.profiles.recover(other, now=Millis(at))
        await append_events(store, "ada", at=at)
        await read(store, other, "ada", at, tier="Gold")
        [receipt] = await store.profile_receipts.open_receipts(profiles.id)
        await store.profile_receipts.requeue_receipt(profiles.id, receipt.id, now=Millis(at))
        assert written_fields(await claim_writes(store, other, at)) == {"tier": "Gold"}

    async def test_an_ambiguous_write_is_sent_again_after_a_delay(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Ambiguous(person, Problem.TIMED_OUT))
        assert await claim_writes(store, fence, NOW + 5000) is None
        at = NOW + 30_000
        await store.leases.renew([fence], now=Millis(at), ttl=TTL)
        assert written_fields(await claim_writes(store, fence, at)) == {"balance": 1}

    @pytest.mark.parametrize("between", ["held", "given up"])
    async def test_no_write_crosses_an_ambiguous_one_that_may_still_be_applied(
        self, store: Store, between: str
    ) -> None:
        """However its row becomes ready again: here because the person has no identity for a
        moment, or after the last attempt."""
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        lost, horizon = (
            Ambiguous(person, Problem.TIMED_OUT),
            0 if between == "given up" else HORIZON,
        )
        await store.profiles.settle(claim, [lost], now=NOW, policy=RetryPolicy(horizon))
        if between == "held":
            await append_events(store, "ada", at=LATER)
            await read(store, fence, "ada", LATER, problem=Problem.NO_IDENTITY, balance=1)
        at = LATER + 1000
        await append_events(store, "ada", at=at)
        await read(store, fence, "ada", at, balance=2)
        assert await claim_writes(store, fence, at) is None
        at = NOW + 30_000
        await store.leases.renew([fence], now=Millis(at), ttl=TTL)
        assert written_fields(await claim_writes(store, fence, at)) == {"balance": 2}

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
        # A new value is written after a dead letter.
        await append_events(store, "cy", at=LATER)
        await read(store, fence, "cy", LATER, balance=2)
        assert written_fields(await claim_writes(store, fence, LATER)) == {"balance": 2}

    async def test_fields_an_event_may_have_written_are_corrected(self, store: Store) -> None:
        """An event may have written a value that no answer confirms."""
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

    async def test_a_withheld_write_is_checked_again_soon(self, store: Store) -> None:
        fence = await acquire_lease(store)
        events, _, profiles = await lanes(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        assert await store.outbox.claim(
            events, fence, now=NOW, limit=1, mode=DeliveryMode.BATCH, mapping="v1"
        )
        assert await claim_writes(store, fence) is None
        assert (await store.profiles.ready(profiles.id, now=NOW, limit=9)).total

    async def test_a_person_who_left_keeps_or_loses_their_fields(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(person, "r1"))
        steps: tuple[tuple[int, OnLeave, dict[str, Any] | None], ...] = (
            (LATER, "keep", None),
            (LATER + 9, "unset", {"balance": None}),
        )
        for at, on_leave, expected in steps:
            await append_events(store, "ada", at=at)
            due = await store.reads.ready((await lanes(store))[1].id, now=Millis(at), limit=1)
            assert due.batch == 1
            gone = await claim_reads(store, fence, at)
            assert gone
            left = Gone(person, on_leave)
            await store.reads.settle(gone, [left], now=Millis(at), policy=RetryPolicy(HORIZON))
            write = await claim_writes(store, fence, at, mode=DeliveryMode.SINGLE)
            assert (written_fields(write) if write else None) == expected

    async def test_a_new_account_starts_empty_and_receives_everything(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
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
        profiles = await profile_lane(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        assert await store.profiles.count_outdated(profiles.id, "v1") == 0
        assert await store.profiles.count_outdated(profiles.id, "v2") == 1
