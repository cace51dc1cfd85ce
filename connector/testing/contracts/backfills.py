"""Tests that every store passes for backfills (guarantee 9). Subclass with a `store` fixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, Millis
from connector.domain.outcomes import Accepted, Dead, Gone, Observed, Outcome
from connector.domain.records import Claim, Page
from connector.ports import (
    Backfill,
    BackfillPage,
    Fence,
    ListedPerson,
    PersonKey,
    RetryPolicy,
    Store,
)
from connector.testing.contracts.profile_harness import (
    LATER,
    append_events,
    claim_reads,
    event_lane,
    lanes,
    make_observation,
    profile_lane,
    read,
    read_lane,
)
from connector.testing.contracts.store import HORIZON, NOW, acquire_lease, record


async def begin(store: Store, **args: Any) -> Backfill:
    """A running backfill."""
    run = await store.backfills.begin("acme", "emails", {"what": "f.csv", **args}, now=NOW)
    await store.backfills.start(run.id, now=NOW, total=3, notes=[])
    return run


async def append(
    store: Store,
    run: Backfill,
    *names: str,
    at: int = NOW,
    cursor: str = "1",
    more: bool = False,
) -> int | None:
    """Append a page with these people."""
    reads = await read_lane(store)
    keys = [PersonKey(None, f"{name}@example.com") for name in names]
    page = BackfillPage(cursor, more, keys=keys, counts={"rows": len(names)})
    return await store.backfills.append_page(run.id, reads, page, now=Millis(at))


async def pending(store: Store, run: Backfill) -> bool:
    _, reads, profiles = await lanes(store)
    return await store.backfill_progress.pending(run.id, reads.id, profiles.id)


async def reload(store: Store, run: Backfill) -> Backfill:
    found = await store.backfills.get(run.id)
    assert found
    return found


async def claim(
    store: Store, fence: Fence, lane: Lane, *, backfill: bool | None, at: int = NOW
) -> Claim | None:
    queue = store.profiles if lane.destination == "klaviyo" else store.reads
    return await queue.claim(
        lane, fence, now=Millis(at), limit=9, mode=DeliveryMode.BATCH, mapping="", backfill=backfill
    )


async def observe(
    store: Store, fence: Fence, at: int = NOW, **values: dict[str, Any] | None
) -> dict[str, int]:
    """Claim the reads of a backfill and settle them: name → fields, None: gone. Returns the number
    of each person."""
    _, reads, profiles = await lanes(store)
    claimed = await claim(store, fence, reads, backfill=True, at=at)
    assert claimed
    numbers: dict[str, int] = {}
    outcomes: list[Outcome] = []
    for entry in claimed.entries:
        assert entry.email
        name = entry.email.partition("@")[0]
        numbers[name] = entry.seq
        fields = values.get(name)
        if fields is None:
            outcomes.append(Gone(entry.seq, "keep"))
        else:
            observation = make_observation(entry.seq, name, at, profiles.id, **fields)
            outcomes.append(Observed(entry.seq, replace(observation, backfill=True)))
    await store.reads.settle(claimed, outcomes, now=Millis(at), policy=RetryPolicy(HORIZON))
    return numbers


async def write_all(store: Store, fence: Fence, at: int = NOW) -> list[str]:
    """Claim and accept every write; returns the addresses."""
    profiles = await profile_lane(store)
    claimed = await claim(store, fence, profiles, backfill=None, at=at)
    if claimed is None:
        return []
    outcomes = [Accepted(entry.seq, f"request-{entry.seq}") for entry in claimed.entries]
    await store.profiles.settle(claimed, outcomes, now=Millis(at), policy=RetryPolicy(HORIZON))
    return sorted(entry.email or "" for entry in claimed.entries)


class BackfillsContract:
    """One behaviour per test."""

    async def test_a_page_and_its_cursor_are_stored_together(self, store: Store) -> None:
        await acquire_lease(store)
        reads = await read_lane(store)
        run = await begin(store)
        assert await append(store, run, "ada", "bob", cursor="7", more=True) == 2
        found = await reload(store, run)
        assert (found.cursor, found.exhausted, found.state) == ("7", False, "running")
        assert found.counts == {"rows": 2, "people": 2}
        ready = await store.reads.ready(reads.id, now=NOW, limit=9)
        assert (ready.batch, ready.backfill_batch) == (0, 2)

    async def test_a_page_that_cannot_be_stored_leaves_no_cursor(self, store: Store) -> None:
        await acquire_lease(store)
        run = await begin(store)
        reads = await read_lane(store)
        broken: Any = [PersonKey(None, "ada@example.com"), object()]
        try:
            await store.backfills.append_page(
                run.id, reads, BackfillPage("7", True, keys=broken), now=NOW
            )
        except Exception:
            pass
        else:
            raise AssertionError("the page was stored")
        assert (await reload(store, run)).cursor is None
        assert await store.timelines.find("acme", "ada@example.com") == []

    async def test_a_person_named_twice_is_read_once(self, store: Store) -> None:
        fence = await acquire_lease(store)
        run = await begin(store)
        assert await append(store, run, "ada", "ada", more=True) == 1
        await observe(store, fence, ada={"balance": 1})
        assert await append(store, run, "ada", "bob", at=LATER) == 1
        reads = await read_lane(store)
        assert (await store.reads.ready(reads.id, now=LATER, limit=9)).backfill_batch == 1

    async def test_only_a_running_backfill_accepts_pages(self, store: Store) -> None:
        await acquire_lease(store)
        waiting = await store.backfills.begin("acme", "emails", {}, now=NOW)
        assert await append(store, waiting, "ada") is None
        run = await begin(store)
        await store.backfills.set_state(run.id, "stopped", now=NOW)
        assert await append(store, run, "ada") is None
        await store.backfills.start(run.id, now=LATER, total=None, notes=[])
        assert (await reload(store, run)).state == "stopped"
        assert await store.timelines.find("acme", "ada@example.com") == []

    async def test_live_traffic_goes_first_in_both_lanes(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        run = await begin(store)
        await append(store, run, "ada", "bob")
        await append_events(store, "cleo", at=LATER)
        ready = await store.reads.ready(reads.id, now=LATER, limit=9)
        assert (ready.batch, ready.backfill_batch) == (1, 2)
        assert not (await store.profiles.ready(profiles.id, now=LATER, limit=9)).total
        live = await claim(store, fence, reads, backfill=False, at=LATER)
        assert live
        assert [(e.email, e.backfill) for e in live.entries] == [("cleo@example.com", False)]
        await observe(store, fence, LATER, ada={"balance": 1}, bob={"balance": 2})
        ready = await store.profiles.ready(profiles.id, now=LATER, limit=9)
        assert (ready.batch, ready.backfill_batch) == (0, 2)
        assert await claim(store, fence, profiles, backfill=False, at=LATER) is None

    async def test_a_live_change_gives_a_backfilled_person_live_priority(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        run = await begin(store)
        await append(store, run, "ada")
        await observe(store, fence, ada={"balance": 1})
        await append_events(store, "ada", at=LATER)
        assert await claim(store, fence, reads, backfill=True, at=LATER) is None
        await read(store, fence, "ada", LATER, balance=2)
        ready = await store.profiles.ready(profiles.id, now=LATER, limit=9)
        assert (ready.batch, ready.backfill_batch) == (1, 0)

    async def test_a_backfill_does_not_lower_the_priority_of_live_people(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        run = await begin(store)
        await append(store, run, "ada", at=LATER)
        await observe(store, fence, LATER, ada={"balance": 2})
        ready = await store.profiles.ready(profiles.id, now=LATER, limit=9)
        assert (ready.batch, ready.backfill_batch) == (1, 0)
        await append_events(store, "bob", at=LATER)
        await append(store, await begin(store), "bob", at=LATER)
        live = await store.reads.ready(reads.id, now=LATER, limit=9)
        assert (live.batch, live.backfill_batch) == (1, 0)

    async def test_the_summary_counts_every_persons_outcome(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        await append_events(store, "same")
        await read(store, fence, "same", balance=1)
        await write_all(store, fence)
        run = await store.backfills.begin("acme", "emails", {}, now=LATER)
        await store.backfills.start(run.id, now=LATER, total=None, notes=[])
        names = ("same", "new", "gone", "bad", "unnamed", "poison", "late")
        await append(store, run, *names, at=LATER)
        numbers = await observe(
            store,
            fence,
            LATER,
            same={"balance": 1},
            new={"balance": 2},
            poison={"balance": 3},
            late={"balance": 4},
            bad={},
            unnamed={},
        )
        await _hold(store, fence, "bad", Problem.BAD_ADDRESS)
        await _hold(store, fence, "unnamed", Problem.NO_IDENTITY)
        claimed = await claim(store, fence, profiles, backfill=True, at=LATER)
        assert claimed
        for entry in claimed.entries:
            outcome: Any = Accepted(entry.seq, "r")
            if entry.seq == numbers["poison"]:
                outcome = Dead(entry.seq, Problem.KLAVIYO_REFUSED)
            if entry.seq != numbers["late"]:
                at = Millis(LATER + 1)
                await store.profiles.settle(claimed, [outcome], now=at, policy=RetryPolicy(HORIZON))
        assert await store.backfill_progress.outcome_counts(run.id) == {
            "unchanged": 1,
            "sent": 1,
            "unknown": 1,
            "invalid": 1,
            "held": 1,
            "dead": 1,
            "pending": 1,
        }

    async def test_a_second_run_sends_nothing(self, store: Store) -> None:
        fence = await acquire_lease(store)
        first = await begin(store)
        await append(store, first, "ada")
        assert await pending(store, first)
        await observe(store, fence, ada={"balance": 1})
        assert await pending(store, first)
        assert await write_all(store, fence) == ["ada@example.com"]
        assert await store.backfill_progress.outcome_counts(first.id) == {"sent": 1}
        assert not await pending(store, first)
        second = await store.backfills.begin("acme", "emails", {}, now=LATER)
        await store.backfills.start(second.id, now=LATER, total=None, notes=[])
        await append(store, second, "ada", at=LATER)
        await observe(store, fence, LATER, ada={"balance": 1})
        assert await write_all(store, fence, LATER) == []
        assert await store.backfill_progress.outcome_counts(second.id) == {"unchanged": 1}

    async def test_force_resends_confirmed_fields(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        await write_all(store, fence)
        run = await begin(store, force=True)
        await append(store, run, "ada", at=LATER)
        await observe(store, fence, LATER, ada={"balance": 1})
        assert await write_all(store, fence, LATER) == ["ada@example.com"]

    async def test_a_stopped_run_withdraws_its_reads_until_resumed(self, store: Store) -> None:
        fence = await acquire_lease(store)
        reads = await read_lane(store)
        run = await begin(store)
        await append(store, run, "ada", "bob", "cleo")
        await append_events(store, "cleo", at=LATER)
        await store.backfills.set_state(run.id, "stopped", now=LATER)
        assert await claim(store, fence, reads, backfill=True, at=LATER) is None
        assert (await store.reads.ready(reads.id, now=LATER, limit=9)).batch == 1
        assert await store.backfill_progress.outcome_counts(run.id) == {"pending": 3}
        await append_events(store, "bob", at=LATER)
        assert (await store.reads.ready(reads.id, now=LATER, limit=9)).batch == 2
        await store.backfills.set_state(run.id, "waiting", now=LATER)
        assert (await store.reads.ready(reads.id, now=LATER, limit=9)).backfill_batch == 0
        await store.backfills.start(run.id, now=LATER, total=None, notes=[])
        ready = await store.reads.ready(reads.id, now=LATER, limit=9)
        assert (ready.batch, ready.backfill_batch) == (2, 1)

    async def test_outstanding_counts_entries_waiting_in_both_lanes(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)

        async def outstanding(limit: int = 99) -> tuple[int, int]:
            return await store.backfill_progress.outstanding(reads.id, profiles.id, limit=limit)

        run = await begin(store)
        await append(store, run, "ada", "bob", "cleo")
        await append_events(store, "live")
        assert await outstanding() == (3, 0)
        assert await outstanding(2) == (2, 0)
        await observe(store, fence, ada={"balance": 1}, bob={"balance": 2})
        assert await outstanding() == (0, 2)
        await claim(store, fence, profiles, backfill=True)
        assert await outstanding() == (0, 2)

    async def test_listed_people_are_observed_after_live_traffic(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        run = await begin(store)
        observation = make_observation(0, "ada", NOW, profiles.id, balance=1)
        listed = ListedPerson(
            "ada", "ada@example.com", replace(observation, backfill=True), frozenset({"balance"})
        )
        assert await store.backfills.append_page(
            run.id, reads, BackfillPage("c", False, listed=[listed]), now=NOW
        )
        ready = await store.profiles.ready(profiles.id, now=NOW, limit=9)
        assert (ready.batch, ready.backfill_batch) == (0, 1)
        assert await claim_reads(store, fence) is None
        await write_all(store, fence, LATER)
        assert await store.backfill_progress.outcome_counts(run.id) == {"sent": 1}
        forced = await begin(store, force=True)
        page = BackfillPage("c", False, listed=[listed])
        await store.backfills.append_page(forced.id, reads, page, now=LATER)
        assert await write_all(store, fence, LATER) == ["ada@example.com"]

    async def test_a_dry_run_reads_and_compares_and_stores_nothing(self, store: Store) -> None:
        fence = await acquire_lease(store)
        profiles = await profile_lane(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        await write_all(store, fence)
        keys = [PersonKey(None, "ada@example.com"), PersonKey("id-9", "new@example.com")]
        known, new = await store.dry_runs.read_entries("acme", keys, now=LATER)
        assert (known.seq, known.unique_id, bool(known.data)) == (person, "ada", True)
        assert (new.seq < 0, new.unique_id, new.email) == (True, "id-9", "new@example.com")
        observations = [
            make_observation(person, "ada", LATER, profiles.id, balance=1),
            make_observation(new.seq, "new", LATER, profiles.id, balance=5),
        ]
        unchanged, write = await store.dry_runs.preview_writes(observations, now=LATER)
        assert unchanged is None
        assert write
        assert write.sets == {"balance": 5}
        assert await store.timelines.find("acme", "new@example.com") == []
        [changed] = await store.dry_runs.preview_writes(
            [make_observation(person, "ada", LATER, profiles.id, balance=2)], now=LATER
        )
        assert changed
        ready = await store.profiles.ready(profiles.id, now=LATER, limit=9)
        assert not ready.total

    async def test_known_people_are_listed_by_number(self, store: Store) -> None:
        await acquire_lease(store)
        await append_events(store, "ada", "bob", "cleo")
        first = await store.people.page("acme", after=0, limit=2)
        rest = await store.people.page("acme", after=first[-1][0], limit=2)
        assert [key.person for _, key in [*first, *rest]] == ["ada", "bob", "cleo"]
        assert await store.people.count("acme") == 3
        assert await store.people.count("other") == 0

    async def test_imported_events_are_not_the_first_live_event(self, store: Store) -> None:
        await acquire_lease(store)
        events = await event_lane(store)
        assert await store.backfills.first_live_event_at(events) is None
        imported = record(email="ada@example.com", occurred_at=NOW - 5_000)
        await store.outbox.append([Page(events, "backfill", [imported], LATER, backfill=True)])
        assert await store.backfills.first_live_event_at(events) is None
        await append_events(store, "ada", at=LATER)
        assert await store.backfills.first_live_event_at(events) == NOW


async def _hold(store: Store, fence: Fence, name: str, problem: Problem) -> None:
    """A read shows that this person cannot be written."""
    profiles = await profile_lane(store)
    await append_events(store, name, at=LATER)
    claimed = await claim_reads(store, fence, LATER + 2_000)
    assert claimed
    [entry] = claimed.entries
    observation = replace(
        make_observation(entry.seq, name, LATER, profiles.id), problem=problem, identity={}
    )
    outcome = Observed(entry.seq, observation)
    await store.reads.settle(claimed, [outcome], now=LATER, policy=RetryPolicy(HORIZON))
