"""What every store promises of people as a listing shows them. Run it with a `store` fixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from connector.domain.lanes import (
    LaneId,
)
from connector.domain.records import (
    Checkpoint,
    Page,
)
from connector.ports import Sighting, Store
from connector.testing.contracts.profiles import (
    LATER,
    claim_reads,
    claim_writes,
    happen,
    lanes,
    read,
    seen,
    told,
)
from connector.testing.contracts.store import NOW, hold, record, take


def listed(
    name: str, at: int, lane: LaneId, *covers: str, id: str | None = None, **changes: Any
) -> Sighting:
    """`name` as a listing shows him, covering the words that it changes and `covers`."""
    return Sighting(
        person=id or name,
        email=f"{name}@example.com",
        observation=seen(0, name, at, lane, **changes),
        covers=frozenset({*changes, *covers}),
    )


class ListingContract:
    """Each test is a sentence about every store."""

    async def test_listed_people_are_observed_and_the_cursor_is_kept_with_them(
        self, store: Store
    ) -> None:
        fence = await hold(store)
        _, reads, profiles = await lanes(store)
        page = [listed(name, NOW, profiles.id, balance=i) for i, name in enumerate(("ada", "bob"))]
        cursor = Checkpoint("people", "page 2")
        people = await store.reads.take_in(reads, page, now=NOW, checkpoint=cursor)
        assert await store.checkpoints.load("acme", "people") == cursor
        assert await claim_reads(store, fence) is None
        claim = await claim_writes(store, fence)
        assert claim
        assert sorted(entry.seq for entry in claim.entries) == sorted(people)
        view = (await store.reads.fresh(people))[people[1]]
        assert (view.view["balance"], view.at) == (1, NOW)

    async def test_a_listing_older_than_the_last_read_changes_nothing(self, store: Store) -> None:
        fence = await hold(store)
        _, reads, profiles = await lanes(store)
        await happen(store, "ada", at=LATER)
        person = await read(store, fence, "ada", LATER, balance=2)
        old = listed("ada", NOW, profiles.id, balance=1)
        assert await store.reads.take_in(reads, [old], now=LATER) == [person]
        assert told(await claim_writes(store, fence, LATER)) == {"balance": 2}
        assert (await store.reads.fresh([person]))[person].view["balance"] == 2

    async def test_what_a_listing_cannot_show_stays_as_it_was_read(self, store: Store) -> None:
        fence = await hold(store)
        _, reads, profiles = await lanes(store)
        await happen(store, "ada")
        person = await read(store, fence, "ada", balance=1, expires="soon", tier="Gold")
        page = [listed("ada", LATER, profiles.id, "tier", balance=2)]
        await store.reads.take_in(reads, page, now=LATER)
        view = (await store.reads.fresh([person]))[person].view
        assert view["expires"] == "soon"
        assert view["balance"] == 2
        assert "tier" not in view

    async def test_a_read_that_is_asked_for_is_still_made(self, store: Store) -> None:
        fence = await hold(store)
        _, reads, profiles = await lanes(store)
        await happen(store, "ada")
        await store.reads.take_in(reads, [listed("ada", NOW, profiles.id, balance=1)], now=NOW)
        claim = await claim_reads(store, fence)
        assert claim
        assert len(claim.entries) == 1

    async def test_one_seen_by_address_is_joined_to_the_id_that_is_listed(
        self, store: Store
    ) -> None:
        await hold(store)
        _, reads, profiles = await lanes(store)
        by_address = listed("ada", NOW, profiles.id, balance=1)
        nameless = Sighting(None, by_address.email, by_address.observation, by_address.covers)
        [first] = await store.reads.take_in(reads, [nameless], now=NOW)
        page = [listed("ada", LATER, profiles.id, id="id-1", balance=2)]
        assert await store.reads.take_in(reads, page, now=LATER) == [first]

    async def test_of_one_listed_twice_the_later_line_counts(self, store: Store) -> None:
        fence = await hold(store)
        _, reads, profiles = await lanes(store)
        page = [listed("ada", NOW, profiles.id, balance=n) for n in (1, 2)]
        await store.reads.take_in(reads, page, now=NOW)
        assert told(await claim_writes(store, fence)) == {"balance": 2}

    async def test_a_listing_by_id_releases_the_events_that_wait_for_an_address(
        self, store: Store
    ) -> None:
        fence = await hold(store)
        events, reads, profiles = await lanes(store)
        await store.append([Page(events, "webhook", [record(email=None, person="ada")], NOW)])
        assert await take(store, events, fence) is None
        line = listed("ada", NOW, profiles.id, balance=1)
        by_id = replace(line, observation=replace(line.observation, email=line.email))
        await store.reads.take_in(reads, [by_id], now=NOW)
        claim = await take(store, events, fence)
        assert claim
        assert [entry.email for entry in claim.entries] == ["ada@example.com"]
