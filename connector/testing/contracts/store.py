"""Contract of the store: outbox, leases, lanes, checkpoints, facts and commands."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import (
    EVENTS,
    READS,
    DeliveryMode,
    Lane,
    LaneState,
    Millis,
    QuotaUsage,
)
from connector.domain.outcomes import (
    Accepted,
    Ambiguous,
    Dead,
    Held,
    Outcome,
    Request,
    Retry,
    Skipped,
    Unsent,
)
from connector.domain.records import Appended, Checkpoint, Claim, Page, Record, State
from connector.ports import DeadLetterFilter, Fence, Holder, RetryPolicy, Settled, Store, StuckGroup

NOW = Millis(1_790_000_000_000)
TTL = 300_000
HORIZON = 60_000
_ids = itertools.count(1)


def record(key: str = "", *, email: str | None = "ada@example.com", **fields: Any) -> Record:
    """A record with a fresh key unless one is given."""
    key = key or f"key-{next(_ids)}"
    made = Record(key, f"test:{key}", "Balance changed", NOW, b"{}", email=email)
    return replace(made, **fields)


def page(
    lane: Lane,
    *records: Record,
    at: int = NOW,
    checkpoint: Checkpoint | None = None,
    backfill: bool = False,
) -> Page:
    return Page(lane, "webhook", records, Millis(at), checkpoint, backfill)


async def take_over(store: Store, lost: Fence, holder: str, now: int) -> Fence:
    """The lease of another holder, once that of `lost` has ended."""
    await store.leases.renew([lost], now=Millis(now), ttl=0)
    return await acquire_lease(store, holder, now)


async def acquire_lease(store: Store, holder: str = "one", now: int = NOW) -> Fence:
    fence = await store.leases.acquire("store", holder, now=Millis(now), ttl=TTL)
    assert isinstance(fence, Fence)
    return fence


async def take(
    store: Store,
    lane: Lane,
    fence: Fence,
    *,
    at: int = NOW,
    limit: int = 100,
    mode: DeliveryMode = DeliveryMode.BATCH,
) -> Claim | None:
    return await store.outbox.claim(
        lane, fence, now=Millis(at), limit=limit, mode=mode, mapping="v1"
    )


async def events(store: Store) -> Lane:
    return await store.lanes.ensure("acme", "klaviyo", "event")


class StoreContract:
    """Each test is a sentence about every store."""

    async def test_the_oldest_waiting_record_is_reported_by_its_receipt_time(
        self, store: Store
    ) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        first = record("a")
        await store.outbox.append([page(lane, first, at=NOW)])
        claim = await take(store, lane, fence)
        assert claim
        [entry] = claim.entries
        later = [Retry(entry.seq, Problem.KLAVIYO_UNAVAILABLE, 3600.0)]
        await store.outbox.settle(claim, later, now=Millis(NOW + 1), policy=RetryPolicy(HORIZON))
        await store.outbox.append([page(lane, record("b"), at=NOW + 5_000)])
        [backlog] = await store.reports.backlog()
        assert (backlog.ready, backlog.oldest) == (2, NOW)

    async def test_an_append_names_the_lanes_that_have_more_to_do(self, store: Store) -> None:
        lane = await events(store)
        reads = await store.lanes.ensure("acme", "jericommerce", "profile")
        plain, unknown = record("a"), record("b", email=None)
        read = record("c", person="p1", refresh=True)
        waits = replace(page(lane, read), read_lane=reads.id, attach_wait=500)
        pages = [page(lane, plain), page(lane, plain), page(lane, unknown), waits]
        found = await store.outbox.append(pages)
        assert [dict(result.lanes) for result in found] == [
            {EVENTS: NOW},
            {},
            {},
            {READS: NOW, EVENTS: NOW + 500},
        ]

    async def test_a_settle_says_when_what_it_gives_back_is_due(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record(), record(), record())])
        claim = await take(store, lane, fence)
        assert claim
        first, second, third = (entry.seq for entry in claim.entries)
        policy = RetryPolicy(HORIZON)

        async def settle(*outcomes: Outcome) -> Settled:
            return await store.outbox.settle(claim, outcomes, now=NOW, policy=policy)

        assert await settle(Accepted(first, "r1")) == Settled(1, None)
        away = Problem.KLAVIYO_UNAVAILABLE
        later = [Retry(second, away, 9.0), Retry(third, away, 4.0)]
        assert await settle(*later) == Settled(2, Millis(NOW + 4_000))
        assert await settle(*later) == Settled(0)

    async def test_a_record_is_deduplicated_by_its_key(self, store: Store) -> None:
        lane = await events(store)
        first = await store.outbox.append([page(lane, record("a"), record("b"))])
        again = await store.outbox.append([page(lane, record("a"), record("c"), record("c"))])
        assert first == [Appended(2, 0)]
        assert again == [Appended(1, 2)]
        other = await store.lanes.ensure("other", "klaviyo", "event")
        assert await store.outbox.append([page(other, record("a"))]) == [Appended(1, 0)]

    async def test_a_key_can_be_reused_after_its_repeat_window(self, store: Store) -> None:
        lane = await events(store)
        for at, accepted in ((0, 1), (3_600_000, 0), (3_600_001, 1), (7_200_001, 0)):
            fact = record("daily", repeat_window=3_600_000)
            [result] = await store.outbox.append([page(lane, fact, at=NOW + at)])
            assert result.accepted == accepted, at
        fence = await acquire_lease(store, now=NOW + 7_200_001)
        claim = await take(store, lane, fence, at=NOW + 7_200_001)
        assert claim
        again = f"test:daily:{NOW + 3_600_001}"
        assert [e.unique_id for e in claim.entries] == ["test:daily", again]

    async def test_cursor_and_records_are_stored_together(self, store: Store) -> None:
        lane = await events(store)
        assert await store.checkpoints.load("acme", "recent") is None
        await store.outbox.append([page(lane, record(), checkpoint=Checkpoint("recent", "p2"))])
        await store.outbox.append([page(lane, checkpoint=Checkpoint("recent", "p3"))])
        assert await store.checkpoints.load("acme", "recent") == Checkpoint("recent", "p3")
        assert [s[:3] for s in await store.reports.streams()] == [("acme", "recent", "p3")]

    async def test_claims_are_exclusive_and_oldest_first(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        for i in range(5):
            await store.outbox.append([page(lane, record(f"k{i}"), at=NOW + i)])
        first = await take(store, lane, fence, at=NOW + 10, limit=3)
        second = await take(store, lane, fence, at=NOW + 10, limit=3)
        assert first
        assert second
        assert [e.unique_id for e in first.entries] == ["test:k0", "test:k1", "test:k2"]
        assert [e.unique_id for e in second.entries] == ["test:k3", "test:k4"]
        assert await take(store, lane, fence, at=NOW + 10) is None

    async def test_live_goes_before_backfill(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record("old"), backfill=True)])
        await store.outbox.append([page(lane, record("live"), at=NOW + 5)])
        claim = await take(store, lane, fence, at=NOW + 10, limit=1)
        assert claim
        assert [(e.unique_id, e.backfill) for e in claim.entries] == [("test:live", False)]

    async def test_entries_that_are_not_due_are_not_ready(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record(), record())])
        claim = await take(store, lane, fence, limit=1)
        assert claim
        retry = Retry(claim.entries[0].seq, Problem.KLAVIYO_THROTTLED, after=5.0)
        assert await self._settle(store, claim, retry) == 1
        ready = await store.outbox.ready(lane.id, now=NOW, limit=10)
        assert (ready.batch, ready.single, ready.next_due) == (1, 0, NOW + 5000)
        ready = await store.outbox.ready(lane.id, now=Millis(NOW + 5000), limit=10)
        assert (ready.batch, ready.single, ready.next_due) == (2, 0, None)
        assert (await store.outbox.ready(lane.id, now=Millis(NOW + 5000), limit=1)).batch == 1

    async def test_every_outcome_sets_the_right_state(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, *(record(f"o{i}") for i in range(7)))])
        claim = await take(store, lane, fence)
        assert claim
        seqs = [entry.seq for entry in claim.entries]
        request = Request("r1", "POST /api/events", NOW, 202, 12)
        settled = await store.outbox.settle(
            claim,
            [
                Accepted(seqs[0], "r1"),
                Skipped(seqs[1], "disabled"),
                Unsent(seqs[2]),
                Retry(seqs[3], Problem.KLAVIYO_UNAVAILABLE, after=1.0),
                Ambiguous(seqs[4], Problem.TIMED_OUT, after=2.0),
                Dead(seqs[5], Problem.TOO_MANY_PROPERTIES, "301 properties", "r1"),
                Held(seqs[6], Problem.BAD_ADDRESS),
            ],
            now=NOW,
            requests=[request],
            policy=RetryPolicy(HORIZON),
        )
        assert settled.changed == 7
        [backlog] = await store.reports.backlog()
        assert (backlog.ready, backlog.claimed, backlog.held, backlog.dead) == (3, 0, 1, 1)
        groups = await store.dead_letters.groups()
        assert set(groups) == {
            StuckGroup(lane, State.DEAD, "E10", 1),
            StuckGroup(lane, State.HELD, "I20", 1),
        }
        shown = await store.dead_letters.show(seqs[5])
        assert shown
        assert shown.request == request
        assert shown.dead_letter.detail == "301 properties"
        later = Millis(NOW + 10_000)
        fresh = await take(store, lane, fence, at=later)
        single = await take(store, lane, fence, at=later, mode=DeliveryMode.SINGLE)
        assert fresh
        assert single
        assert [(e.seq, e.attempts) for e in fresh.entries] == [(seqs[2], 1), (seqs[3], 2)]
        assert [(e.seq, e.attempts, e.mode) for e in single.entries] == [
            (seqs[4], 2, DeliveryMode.SINGLE)
        ]
        assert await store.reports.recent_requests(5) == [("acme", "klaviyo", request)]

    async def test_an_ambiguous_entry_keeps_the_mapping_it_was_sent_with(
        self, store: Store
    ) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record("a"), record("b"))])
        claim = await take(store, lane, fence)
        assert claim
        a, b = (entry.seq for entry in claim.entries)
        await self._settle(
            store, claim, Ambiguous(a, Problem.TIMED_OUT), Retry(b, Problem.KLAVIYO_THROTTLED)
        )
        for seq, mode, version in (
            (a, DeliveryMode.SINGLE, "v1"),
            (b, DeliveryMode.BATCH, "v2"),
        ):
            again = await store.outbox.claim(lane, fence, now=NOW, limit=5, mode=mode, mapping="v2")
            assert again
            assert [(e.seq, e.mapping) for e in again.entries] == [(seq, version)]

    async def test_a_batch_settles_once(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record("a"))])
        claim = await take(store, lane, fence)
        assert claim
        seq = claim.entries[0].seq
        assert await self._settle(store, claim, Accepted(seq, "r1")) == 1
        assert await self._settle(store, claim, Retry(seq, Problem.TIMED_OUT)) == 0
        assert await self._settle(store, claim, Accepted(seq, "r2")) == 0
        assert await take(store, lane, fence, at=NOW + 1000) is None

    async def test_entries_of_a_dead_holder_become_ambiguous(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record("a"))])
        claim = await take(store, lane, fence)
        assert claim
        later = Millis(NOW + TTL)
        assert isinstance(
            await store.leases.acquire("store", "two", now=Millis(NOW + 1), ttl=TTL), Holder
        )
        other = await take_over(store, fence, "two", later)
        assert await store.outbox.recover(other, now=later, lanes=[]) == 0
        assert await store.outbox.recover(other, now=later, lanes=[lane.id]) == 1
        # The first holder wakes: whatever it does changes nothing.
        assert await self._settle(store, claim, Accepted(claim.entries[0].seq, "r")) == 0
        with pytest.raises(StoreError) as caught:
            await take(store, lane, fence, at=later)
        assert caught.value.problem == Problem.STORE_HELD
        assert await store.leases.renew([fence, other], now=later, ttl=TTL) == {other}
        again = await take(store, lane, other, at=later, mode=DeliveryMode.SINGLE)
        assert again
        assert [(e.mode, e.attempts, e.mapping) for e in again.entries] == [
            (DeliveryMode.SINGLE, 2, "v1")
        ]

    async def test_an_expired_lease_claims_nothing(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record())])
        await store.leases.renew([fence], now=Millis(NOW + TTL), ttl=0)
        with pytest.raises(StoreError):
            await take(store, lane, fence, at=NOW + TTL)
        assert await store.leases.renew([fence], now=Millis(NOW + TTL), ttl=TTL)
        assert await take(store, lane, fence, at=NOW + TTL)

    async def test_holders_say_whose_leases_have_ended(self, store: Store) -> None:
        assert await store.leases.holders(now=Millis(NOW)) == {}
        fence = await acquire_lease(store)
        account = await store.leases.acquire("SANDBX", "two", now=Millis(NOW), ttl=TTL)
        assert isinstance(account, Fence)
        await store.leases.renew([account], now=Millis(NOW), ttl=0)
        held = await store.leases.holders(now=Millis(NOW))
        assert {r: (h.holder, h.expired) for r, h in held.items()} == {
            "store": ("one", False),
            "SANDBX": ("two", True),
        }
        await store.leases.release([fence, account])
        held = await store.leases.holders(now=Millis(NOW))
        assert [(h.expires_at, h.expired) for h in held.values()] == [(0, True)] * 2

    async def test_lanes_with_an_entry_that_may_be_claimed_are_due(self, store: Store) -> None:
        lane = await events(store)
        reads = await store.lanes.ensure("acme", "jericommerce", "profile")
        assert await store.lanes.due([lane, reads], now=Millis(NOW)) == frozenset()
        await store.outbox.append([page(lane, record("a"))])
        assert await store.lanes.due([lane, reads], now=Millis(NOW - 1)) == frozenset()
        assert await store.lanes.due([lane, reads], now=Millis(NOW)) == {lane.id}
        assert await store.lanes.due([reads], now=Millis(NOW)) == frozenset()

    async def test_accounts_are_known_to_every_process(self, store: Store) -> None:
        assert await store.facts.pinned_accounts() == {}
        await store.facts.pin_account("acme", "SANDBX")
        await store.facts.pin_account("acme", "OTHER")
        assert await store.facts.pinned_accounts() == {"acme": "SANDBX"}

    async def test_a_released_lease_is_free_at_once(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await store.leases.release([fence])
        assert (await acquire_lease(store, "two")).token > fence.token
        assert (await store.leases.holders(now=Millis(NOW)))["store"].holder == "two"

    async def test_retries_end_at_the_horizon_and_a_pause_does_not_count(
        self, store: Store
    ) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record("a"))])

        async def fail(at: int) -> None:
            await store.leases.renew([fence], now=Millis(at), ttl=TTL)
            claim = await take(store, lane, fence, at=at)
            assert claim
            retry = Retry(claim.entries[0].seq, Problem.KLAVIYO_UNAVAILABLE)
            await store.outbox.settle(claim, [retry], now=Millis(at), policy=RetryPolicy(HORIZON))

        await fail(NOW)
        await fail(NOW + HORIZON - 1)
        assert await store.outbox.extend_horizon(lane.id, 10_000) == 1
        await fail(NOW + HORIZON + 9_999)
        assert not await store.dead_letters.groups()
        await fail(NOW + HORIZON + 10_000)
        [letter] = await store.dead_letters.find()
        assert letter.problem == Problem.RETRIES_EXHAUSTED
        assert "K503" in letter.detail

    async def test_a_record_without_address_waits_for_its_person(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        [result] = await store.outbox.append([page(lane, record("a", email=None, person="p1"))])
        assert result == Appended(1, 0, held=1)
        assert await take(store, lane, fence) is None
        named = record("b", email="ada@example.com", person="p1")
        [result] = await store.outbox.append([page(lane, named, at=NOW + 1)])
        assert result == Appended(1, 0, released=1)
        claim = await take(store, lane, fence, at=NOW + 1)
        assert claim
        assert [e.email for e in claim.entries] == ["ada@example.com"] * 2
        [result] = await store.outbox.append([page(lane, record("c", email=None, person="p1"))])
        assert result == Appended(1, 0)
        [result] = await store.outbox.append([page(lane, record("d", email=None))])
        assert result == Appended(1, 0, held=1)

    async def test_a_page_may_bring_the_address_it_lacks(self, store: Store) -> None:
        lane = await events(store)
        nameless = record("a", email=None, person="p1")
        named = record("b", email="ada@example.com", person="p1")
        [result] = await store.outbox.append([page(lane, nameless, named)])
        assert result == Appended(2, 0, released=1)

    async def test_a_person_known_by_address_is_merged_with_their_id(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record("a", email="ada@example.com"))])
        await store.outbox.append([page(lane, record("b", email="ada@example.com", person="p1"))])
        await store.outbox.append([page(lane, record("c", email="new@example.com", person="p1"))])
        await store.outbox.append([page(lane, record("d", email=None, person="p1"))])
        claim = await take(store, lane, fence)
        assert claim
        assert len({e.person for e in claim.entries}) == 1
        assert [e.email for e in claim.entries][-1] == "new@example.com"

    async def test_dead_letters_are_retried_with_the_same_id(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record("a"), record("b"), record("c"))])
        await store.outbox.append([page(lane, record("d", email=None))])
        claim = await take(store, lane, fence)
        assert claim
        seqs = [e.seq for e in claim.entries]
        causes = (Problem.KLAVIYO_REFUSED, Problem.KLAVIYO_REFUSED, Problem.MAPPING_FAILED)
        dead = [Dead(seq, cause) for seq, cause in zip(seqs, causes, strict=True)]
        await store.outbox.settle(claim, dead, now=NOW, policy=RetryPolicy(HORIZON))
        letters = store.dead_letters
        refused = DeadLetterFilter(cause="K400")
        assert [x.id for x in await letters.find(refused)] == [seqs[1], seqs[0]]
        assert await letters.retry(DeadLetterFilter(ids=[seqs[0]]), now=NOW) == (1, seqs[0])
        assert await letters.retry(refused, now=NOW) == (1, seqs[1])
        rest = DeadLetterFilter(ids=[seqs[2], seqs[0]])
        assert await letters.discard(rest, reason="test", now=NOW) == (1, seqs[2])
        assert await letters.retry(DeadLetterFilter(), now=NOW) == (0, None)
        again = await take(store, lane, fence)
        assert again
        assert [(e.unique_id, e.attempts) for e in again.entries] == [
            ("test:a", 1),
            ("test:b", 1),
        ]

    async def test_dead_letters_are_found_by_what_a_person_filters_by(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, *(record(key) for key in "abcd"))])
        await store.outbox.append([page(lane, record("held", email=None))])
        claim = await take(store, lane, fence, limit=4)
        assert claim
        seqs = [e.seq for e in claim.entries]
        dead = [
            Dead(seqs[0], Problem.KLAVIYO_REFUSED, "too 100% long"),
            *(Dead(seq, Problem.MAPPING_FAILED) for seq in seqs[1:]),
        ]
        await store.outbox.settle(claim, dead, now=NOW, policy=RetryPolicy(HORIZON))
        letters = store.dead_letters

        async def found(which: DeadLetterFilter, **options: Any) -> list[str]:
            rows = await letters.find(which, **options)
            if not options:
                assert await letters.count(which) == len(rows)
            return [x.unique_id.removeprefix("test:") for x in rows]

        assert await found(DeadLetterFilter()) == ["held", "d", "c", "b", "a"]
        assert await found(DeadLetterFilter(state=State.HELD)) == ["held"]
        assert await found(DeadLetterFilter(state=State.DEAD, cause="M10")) == ["d", "c", "b"]
        assert await found(DeadLetterFilter(text="100% LONG")) == ["a"]
        assert await found(DeadLetterFilter(text="100_")) == []
        assert await found(DeadLetterFilter(text="test:b")) == ["b"]
        assert await found(DeadLetterFilter(connection="other")) == []
        assert await found(DeadLetterFilter(), before=seqs[2], limit=1) == ["b"]

    async def test_many_dead_letters_are_changed_in_steps(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, *(record(key) for key in "abc"))])
        claim = await take(store, lane, fence)
        assert claim
        seqs = [e.seq for e in claim.entries]
        dead = [Dead(seq, Problem.KLAVIYO_REFUSED) for seq in seqs]
        await store.outbox.settle(claim, dead, now=NOW, policy=RetryPolicy(HORIZON))
        every = DeadLetterFilter()
        assert await store.dead_letters.retry(every, limit=2, now=NOW) == (2, seqs[1])
        assert await store.dead_letters.retry(every, after=seqs[1], limit=2, now=NOW) == (
            1,
            seqs[2],
        )

    async def _pruned(self, store: Store, now: Millis, keep: Mapping[State, int]) -> int:
        """How many records one night deletes, two at a time."""
        deleted, after = 0, 0
        while True:
            part = await store.maintenance.prune_records(now=now, keep=keep, limit=2, after=after)
            deleted += part.deleted
            if part.after is None:
                return deleted
            assert part.after > after
            after = part.after

    async def test_retention_prunes_only_old_records_of_the_given_states(
        self, store: Store
    ) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record("a"), record("b"))])
        await store.outbox.append([page(lane, record("waits"))])
        claim = await take(store, lane, fence, limit=2)
        assert claim
        a, b = (e.seq for e in claim.entries)
        await self._settle(store, claim, Accepted(a, "r"), Dead(b, Problem.KLAVIYO_REFUSED))
        keep = {State.ACCEPTED: 1000}
        assert await self._pruned(store, Millis(NOW + 1000), keep) == 0
        assert await store.outbox.append([page(lane, record("a"))]) == [Appended(0, 1)]
        assert await self._pruned(store, Millis(NOW + 1001), keep) == 1
        assert await store.outbox.append([page(lane, record("a"))]) == [Appended(1, 0)]
        assert await store.outbox.append([page(lane, record("b"), record("waits"))]) == [
            Appended(0, 2)
        ]

    async def test_records_that_wait_for_their_lane_are_kept_until_it_sends_again(
        self, store: Store
    ) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        shadow = replace(page(lane, record("c")), suppressed="shadow")
        await store.outbox.append([page(lane, record("a"), record("b")), shadow])
        claim = await take(store, lane, fence)
        assert claim
        assert [entry.suppressed for entry in claim.entries] == [None, None, "shadow"]
        a, b, c = (entry.seq for entry in claim.entries)
        await self._settle(
            store,
            claim,
            Held(a, Problem.NOT_LIVE),
            Held(b, Problem.BAD_ADDRESS),
            Skipped(c, "shadow"),
        )
        keep = {State.HELD: 1000}
        late = Millis(NOW + 5_000)
        assert await self._pruned(store, late, keep) == 1
        assert await store.outbox.release_waiting(lane.id, now=late) == 1
        assert await store.outbox.release_waiting(lane.id, now=late) == 0
        claim = await take(store, lane, fence, at=late)
        assert claim
        assert [(entry.seq, entry.attempts) for entry in claim.entries] == [(a, 1)]

    async def test_held_dead_and_discarded_records_are_kept_from_when_they_became_so(
        self, store: Store
    ) -> None:
        """They may have been received long before, and waited or been retried since."""
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record("a"), record("b"), record("c"))])
        claim = await take(store, lane, fence, limit=3)
        assert claim
        a, b, c = (e.seq for e in claim.entries)
        late = Millis(NOW + 5_000)
        refused = [Dead(seq, Problem.KLAVIYO_REFUSED) for seq in (a, c)]
        await store.outbox.settle(
            claim,
            [*refused, Held(b, Problem.NO_IDENTITY)],
            now=late,
            policy=RetryPolicy(HORIZON),
        )
        await store.dead_letters.discard(DeadLetterFilter([c]), reason="test", now=late)
        keep = dict.fromkeys((State.DEAD, State.HELD, State.DISCARDED), 1_000)
        for after, pruned in ((1_000, 0), (1_001, 3)):
            now = Millis(late + after)
            assert await self._pruned(store, now, keep) == pruned

    async def test_the_timeline_is_pruned_before_the_ids(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        await store.outbox.append([page(lane, record("a"))])
        claim = await take(store, lane, fence)
        assert claim
        seq = claim.entries[0].seq
        sent = Request("r1", "POST /api/events", NOW, 202, 5)
        await store.outbox.settle(
            claim, [Accepted(seq, "r1")], now=NOW, requests=[sent], policy=RetryPolicy(HORIZON)
        )
        assert await store.maintenance.prune_timeline(before=NOW, limit=10) == 0
        assert await store.reports.recent_requests(5) == [("acme", "klaviyo", sent)]
        assert await store.maintenance.prune_timeline(before=Millis(NOW + 1), limit=10) > 0
        assert await store.maintenance.prune_timeline(before=Millis(NOW + 1), limit=10) == 0
        assert await store.reports.recent_requests(5) == []
        assert await store.outbox.append([page(lane, record("a"))]) == [Appended(0, 1)]

    async def test_lanes_remember_their_state(self, store: Store) -> None:
        lane = await events(store)
        assert await events(store) == lane
        state = LaneState("blocked", Problem.KLAVIYO_KEY, "HTTP 401", NOW)
        await store.lanes.set_state(lane.id, state)
        assert await store.lanes.all() == [(lane, state)]

    async def test_a_lost_lease_stores_no_state(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        paused = LaneState("paused", Problem.PAUSED, "", NOW)
        await store.lanes.set_state(lane.id, paused, fence)
        await store.leases.release([fence])
        with pytest.raises(StoreError) as caught:
            await store.lanes.set_state(lane.id, LaneState("running", None, "", NOW), fence)
        assert caught.value.problem is Problem.STORE_HELD
        assert await store.lanes.all() == [(lane, paused)]

    async def test_spend_adds_up_and_is_saved_with_the_claim(self, store: Store) -> None:
        lane, fence = await events(store), await acquire_lease(store)
        spend = QuotaUsage("acc", "events", 100, 2)
        assert (
            await store.outbox.claim(
                lane, fence, now=NOW, limit=1, mode=DeliveryMode.BATCH, mapping="v1", usage=[spend]
            )
            is None
        )
        await store.facts.save_usage([QuotaUsage("acc", "events", 100, 1)])
        others = [
            QuotaUsage("acc", "events", 99, 1),
            QuotaUsage("acc", "lists", 99, 4),
            QuotaUsage("acc", "tags", 100, 5),
            QuotaUsage("other", "events", 100, 6),
        ]
        await store.facts.save_usage(others)
        assert await store.facts.usage_since("acc", {"events": 100, "lists": 99}) == [
            QuotaUsage("acc", "events", 100, 3),
            QuotaUsage("acc", "lists", 99, 4),
        ]

    async def test_facts_are_stored(self, store: Store) -> None:
        await store.facts.save_mapping("v1", "text", now=NOW)
        await store.facts.save_mapping("v1", "other", now=NOW)
        assert await store.facts.mapping("v1") == "text"
        assert await store.facts.mapping("v2") is None
        assert await store.facts.pin_account("acme", "A1") == "A1"
        assert await store.facts.pin_account("acme", "B2") == "A1"
        assert await store.facts.pin_account("acme", "B2", force=True) == "B2"

    async def test_a_command_is_claimed_once(self, store: Store) -> None:
        id = await store.commands.submit("pause", {"connection": "acme"}, by="cli", now=NOW)
        [command] = await store.commands.fetch(now=NOW)
        assert (command.id, command.kind, command.args) == (id, "pause", {"connection": "acme"})
        assert await store.commands.fetch(now=NOW) == []
        await store.commands.finish(id, ok=True, result={"paused": 1}, now=NOW)
        done = await store.commands.get(id)
        assert done
        assert (done.ok, done.result) == (True, {"paused": 1})
        assert await store.commands.get(id + 1) is None

    async def test_a_page_that_cannot_be_stored_leaves_no_cursor(self, store: Store) -> None:
        lane = await events(store)
        broken = record("x", name=None)
        with pytest.raises(StoreError):
            await store.outbox.append(
                [page(lane, record("y"), broken, checkpoint=Checkpoint("recent", "p9"))]
            )
        assert await store.checkpoints.load("acme", "recent") is None
        assert await store.outbox.append([page(lane, record("y"))]) == [Appended(1, 0)]

    @staticmethod
    async def _settle(store: Store, claim: Claim, *outcomes: Outcome) -> int:
        policy = RetryPolicy(HORIZON)
        return (await store.outbox.settle(claim, outcomes, now=NOW, policy=policy)).changed
