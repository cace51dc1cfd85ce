"""What every store promises of backfills (promise 9). Run it with a `store` fixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, Millis
from connector.domain.outcomes import Accepted, Dead, Gone, Observed, Outcome
from connector.domain.records import Claim
from connector.ports import Backfill, BackfillPage, Fence, ListedPerson, PersonKey, Store
from connector.testing.contracts.profiles import (
    LATER,
    append_events,
    claim_reads,
    lanes,
    make_observation,
    read,
)
from connector.testing.contracts.store import HORIZON, NOW, acquire_lease


async def begin(store: Store, **args: Any) -> Backfill:
    """A run that may feed."""
    made = await store.backfills.begin("acme", "emails", {"what": "f.csv", **args}, now=NOW)
    await store.backfills.start(made.id, now=NOW, total=3, notes=[])
    return made


def page(*names: str, cursor: str = "1", more: bool = False, **more_of: Any) -> BackfillPage:
    named = [PersonKey(None, f"{name}@example.com") for name in names]
    return BackfillPage(cursor, more, keys=named, counts={"rows": len(names)}, **more_of)


async def feed(store: Store, run: Backfill, *names: str, at: int = NOW, **how: Any) -> int | None:
    _, reads, _ = await lanes(store)
    return await store.backfills.append_page(run.id, reads, page(*names, **how), now=Millis(at))


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
    """Claim what a backfill asked for and answer: address → fields, None: gone. Their numbers."""
    _, reads, profiles = await lanes(store)
    claimed = await claim(store, fence, reads, backfill=True, at=at)
    assert claimed
    who: dict[str, int] = {}
    outcomes: list[Outcome] = []
    for entry in claimed.entries:
        assert entry.email
        name = entry.email.partition("@")[0]
        who[name] = entry.seq
        fields = values.get(name)
        if fields is None:
            outcomes.append(Gone(entry.seq, "keep"))
        else:
            found = make_observation(entry.seq, name, at, profiles.id, **fields)
            outcomes.append(Observed(entry.seq, _of_backfill(found)))
    await store.reads.settle(claimed, outcomes, now=Millis(at), horizon=HORIZON)
    return who


def _of_backfill(observation: Any) -> Any:
    return replace(observation, backfill=True)


async def write_all(store: Store, fence: Fence, at: int = NOW) -> list[str]:
    """Claim and confirm every write; whose they were."""
    _, _, profiles = await lanes(store)
    claimed = await claim(store, fence, profiles, backfill=None, at=at)
    if claimed is None:
        return []
    outcomes = [Accepted(entry.seq, f"request-{entry.seq}") for entry in claimed.entries]
    await store.profiles.settle(claimed, outcomes, now=Millis(at), horizon=HORIZON)
    return sorted(entry.email or "" for entry in claimed.entries)


class BackfillsContract:
    """Each test is a sentence about every store."""

    async def test_a_page_and_its_cursor_are_stored_together(self, store: Store) -> None:
        await acquire_lease(store)
        _, reads, _ = await lanes(store)
        run = await begin(store)
        assert await feed(store, run, "ada", "bob", cursor="7", more=True) == 2
        found = await reload(store, run)
        assert (found.cursor, found.exhausted, found.state) == ("7", False, "running")
        assert found.counts == {"rows": 2, "people": 2}
        ready = await store.reads.ready(reads.id, now=NOW, limit=9)
        assert (ready.batch, ready.backfill_batch) == (0, 2)

    async def test_a_page_that_cannot_be_stored_leaves_no_cursor(self, store: Store) -> None:
        await acquire_lease(store)
        run = await begin(store)
        _, reads, _ = await lanes(store)
        broken: Any = [PersonKey(None, "ada@example.com"), object()]
        try:
            await store.backfills.append_page(
                run.id, reads, BackfillPage("7", True, keys=broken), now=NOW
            )
        except Exception:
            pass
        else:
            raise AssertionError("it was stored")
        assert (await reload(store, run)).cursor is None
        assert await store.reports.people("acme", "ada@example.com") == []

    async def test_a_person_named_twice_is_read_once(self, store: Store) -> None:
        fence = await acquire_lease(store)
        run = await begin(store)
        assert await feed(store, run, "ada", "ada", more=True) == 1
        await observe(store, fence, ada={"balance": 1})
        assert await feed(store, run, "ada", "bob", at=LATER) == 1
        _, reads, _ = await lanes(store)
        assert (await store.reads.ready(reads.id, now=LATER, limit=9)).backfill_batch == 1

    async def test_only_a_running_backfill_accepts_pages(self, store: Store) -> None:
        await acquire_lease(store)
        waiting = await store.backfills.begin("acme", "emails", {}, now=NOW)
        assert await feed(store, waiting, "ada") is None
        run = await begin(store)
        await store.backfills.set_state(run.id, "stopped", now=NOW)
        assert await feed(store, run, "ada") is None
        await store.backfills.start(run.id, now=LATER, total=None, notes=[])
        assert (await reload(store, run)).state == "stopped"
        assert await store.reports.people("acme", "ada@example.com") == []

    async def test_live_traffic_goes_first_in_both_lanes(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        run = await begin(store)
        await feed(store, run, "ada", "bob")
        await append_events(store, "cleo", at=LATER)
        for lane, queue in ((reads, store.reads), (profiles, store.profiles)):
            ready = await queue.ready(lane.id, now=LATER, limit=9)
            old = 2 if lane is reads else 0
            assert (ready.batch, ready.backfill_batch) == (int(lane is reads), old)
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
        await feed(store, run, "ada")
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
        await feed(store, run, "ada", at=LATER)
        await observe(store, fence, LATER, ada={"balance": 2})
        ready = await store.profiles.ready(profiles.id, now=LATER, limit=9)
        assert (ready.batch, ready.backfill_batch) == (1, 0)
        await append_events(store, "bob", at=LATER)
        await feed(store, await begin(store), "bob", at=LATER)
        live = await store.reads.ready(reads.id, now=LATER, limit=9)
        assert (live.batch, live.backfill_batch) == (1, 0)

    async def test_the_summary_counts_every_persons_outcome(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, _, profiles = await lanes(store)
        await append_events(store, "same")
        await read(store, fence, "same", balance=1)
        await write_all(store, fence)
        run = await store.backfills.begin("acme", "emails", {}, now=LATER)
        await store.backfills.start(run.id, now=LATER, total=None, notes=[])
        names = ("same", "new", "gone", "bad", "nobody", "poison", "late")
        await feed(store, run, *names, at=LATER)
        who = await observe(
            store,
            fence,
            LATER,
            same={"balance": 1},
            new={"balance": 2},
            poison={"balance": 3},
            late={"balance": 4},
            bad={},
            nobody={},
        )
        await _hold(store, fence, "bad", Problem.BAD_ADDRESS)
        await _hold(store, fence, "nobody", Problem.NO_IDENTITY)
        claimed = await claim(store, fence, profiles, backfill=True, at=LATER)
        assert claimed
        for entry in claimed.entries:
            outcome: Any = Accepted(entry.seq, "r")
            if entry.seq == who["poison"]:
                outcome = Dead(entry.seq, Problem.KLAVIYO_REFUSED)
            if entry.seq != who["late"]:
                at = Millis(LATER + 1)
                await store.profiles.settle(claimed, [outcome], now=at, horizon=HORIZON)
        assert await store.backfills.outcome_counts(run.id) == {
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
        await feed(store, first, "ada")
        await observe(store, fence, ada={"balance": 1})
        assert await write_all(store, fence) == ["ada@example.com"]
        assert await store.backfills.outcome_counts(first.id) == {"sent": 1}
        second = await store.backfills.begin("acme", "emails", {}, now=LATER)
        await store.backfills.start(second.id, now=LATER, total=None, notes=[])
        await feed(store, second, "ada", at=LATER)
        await observe(store, fence, LATER, ada={"balance": 1})
        assert await write_all(store, fence, LATER) == []
        assert await store.backfills.outcome_counts(second.id) == {"unchanged": 1}

    async def test_force_resends_confirmed_fields(self, store: Store) -> None:
        fence = await acquire_lease(store)
        await append_events(store, "ada")
        await read(store, fence, "ada", balance=1)
        await write_all(store, fence)
        run = await begin(store, force=True)
        await feed(store, run, "ada", at=LATER)
        await observe(store, fence, LATER, ada={"balance": 1})
        assert await write_all(store, fence, LATER) == ["ada@example.com"]

    async def test_a_stopped_run_withdraws_its_reads_until_resumed(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, reads, _ = await lanes(store)
        run = await begin(store)
        await feed(store, run, "ada", "bob", "cleo")
        await append_events(store, "cleo", at=LATER)
        await store.backfills.set_state(run.id, "stopped", now=LATER)
        assert await claim(store, fence, reads, backfill=True, at=LATER) is None
        assert (await store.reads.ready(reads.id, now=LATER, limit=9)).batch == 1
        assert await store.backfills.outcome_counts(run.id) == {"pending": 3}
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
            return await store.backfills.outstanding(reads.id, profiles.id, limit=limit)

        run = await begin(store)
        await feed(store, run, "ada", "bob", "cleo")
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
        found = _of_backfill(make_observation(0, "ada", NOW, profiles.id, balance=1))
        listed = ListedPerson("ada", "ada@example.com", found, frozenset({"balance"}))
        assert await store.backfills.append_page(
            run.id, reads, BackfillPage("c", False, listed=[listed]), now=NOW
        )
        ready = await store.profiles.ready(profiles.id, now=NOW, limit=9)
        assert (ready.batch, ready.backfill_batch) == (0, 1)
        assert await claim_reads(store, fence) is None
        await write_all(store, fence, LATER)
        assert await store.backfills.outcome_counts(run.id) == {"sent": 1}
        forced = await begin(store, force=True)
        page = BackfillPage("c", False, listed=[listed])
        await store.backfills.append_page(forced.id, reads, page, now=LATER)
        assert await write_all(store, fence, LATER) == ["ada@example.com"]

    async def test_entries_and_comparison_store_nothing(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, _, profiles = await lanes(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1)
        await write_all(store, fence)
        named = [PersonKey(None, "ada@example.com"), PersonKey("id-9", "new@example.com")]
        known, new = await store.backfills.read_entries("acme", named, now=LATER)
        assert (known.seq, known.unique_id, bool(known.data)) == (person, "ada", True)
        assert (new.seq < 0, new.unique_id, new.email) == (True, "id-9", "new@example.com")
        looks = [
            make_observation(person, "ada", LATER, profiles.id, balance=1),
            make_observation(new.seq, "new", LATER, profiles.id, balance=5),
        ]
        same, would = await store.backfills.preview_writes(looks, now=LATER)
        assert same is None
        assert would
        assert would.sets == {"balance": 5}
        assert await store.reports.people("acme", "new@example.com") == []
        [changed] = await store.backfills.preview_writes(
            [make_observation(person, "ada", LATER, profiles.id, balance=2)], now=LATER
        )
        assert changed
        ready = await store.profiles.ready(profiles.id, now=LATER, limit=9)
        assert not ready.any

    async def test_known_people_are_listed_by_id(self, store: Store) -> None:
        await acquire_lease(store)
        await append_events(store, "ada", "bob", "cleo")
        first = await store.backfills.people_after("acme", 0, 2)
        rest = await store.backfills.people_after("acme", first[-1][0], 2)
        assert [name.person for _, name in [*first, *rest]] == ["ada", "bob", "cleo"]
        assert await store.backfills.count_people("acme") == 3
        assert await store.backfills.count_people("other") == 0


async def _hold(store: Store, fence: Fence, name: str, problem: Problem) -> None:
    """Somebody of whom the next read shows that he cannot be told."""
    _, _, profiles = await lanes(store)
    await append_events(store, name, at=LATER)
    claimed = await claim_reads(store, fence, LATER + 2_000)
    assert claimed
    [entry] = claimed.entries
    found = replace(
        make_observation(entry.seq, name, LATER, profiles.id), problem=problem, identity={}
    )
    await store.reads.settle(claimed, [Observed(entry.seq, found)], now=LATER, horizon=HORIZON)
