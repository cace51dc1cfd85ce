"""Tests that every store passes for listed people. Subclass with a `store` fixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from connector.domain.lanes import LaneId
from connector.domain.records import Checkpoint, Page
from connector.ports import ListedPerson, Store
from connector.testing.contracts.profile_harness import (
    LATER,
    append_events,
    claim_reads,
    claim_writes,
    lanes,
    make_observation,
    read,
    written_fields,
)
from connector.testing.contracts.store import NOW, acquire_lease, record, take


def listed_person(
    name: str, at: int, lane: LaneId, *covers: str, id: str | None = None, **changes: Any
) -> ListedPerson:
    """A person in a listing that covers the changed fields and `covers`."""
    return ListedPerson(
        person=id or name,
        email=f"{name}@example.com",
        observation=make_observation(0, name, at, lane, **changes),
        covers=frozenset({*changes, *covers}),
    )


class BulkObservationsContract:
    """One behaviour per test."""

    async def test_listed_people_are_observed_and_the_cursor_is_saved_with_them(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        page = [
            listed_person(name, NOW, profiles.id, balance=i)
            for i, name in enumerate(("ada", "bob"))
        ]
        cursor = Checkpoint("people", "page 2")
        people = await store.reads.bulk_observe(reads, page, now=NOW, checkpoint=cursor)
        assert await store.checkpoints.load("acme", "people") == cursor
        assert await claim_reads(store, fence) is None
        claim = await claim_writes(store, fence)
        assert claim
        assert sorted(entry.seq for entry in claim.entries) == sorted(people)
        view = (await store.reads.fresh_views(people))[people[1]]
        assert (view.view["balance"], view.at) == (1, NOW)

    async def test_a_listing_older_than_the_last_read_changes_nothing(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        await append_events(store, "ada", at=LATER)
        person = await read(store, fence, "ada", LATER, balance=2)
        old = listed_person("ada", NOW, profiles.id, balance=1)
        assert await store.reads.bulk_observe(reads, [old], now=LATER) == [person]
        assert written_fields(await claim_writes(store, fence, LATER)) == {"balance": 2}
        assert (await store.reads.fresh_views([person]))[person].view["balance"] == 2

    async def test_fields_a_listing_does_not_cover_keep_the_value_of_the_last_read(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        await append_events(store, "ada")
        person = await read(store, fence, "ada", balance=1, expires="soon", tier="Gold")
        page = [listed_person("ada", LATER, profiles.id, "tier", balance=2)]
        await store.reads.bulk_observe(reads, page, now=LATER)
        view = (await store.reads.fresh_views([person]))[person].view
        assert view["expires"] == "soon"
        assert view["balance"] == 2
        assert "tier" not in view

    async def test_a_requested_read_is_still_made_after_a_listing(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        await append_events(store, "ada")
        await store.reads.bulk_observe(
            reads, [listed_person("ada", NOW, profiles.id, balance=1)], now=NOW
        )
        claim = await claim_reads(store, fence)
        assert claim
        assert len(claim.entries) == 1

    async def test_a_person_known_by_email_is_merged_with_the_listed_id(self, store: Store) -> None:
        await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        by_address = listed_person("ada", NOW, profiles.id, balance=1)
        without_id = ListedPerson(None, by_address.email, by_address.observation, by_address.covers)
        [first] = await store.reads.bulk_observe(reads, [without_id], now=NOW)
        page = [listed_person("ada", LATER, profiles.id, id="id-1", balance=2)]
        assert await store.reads.bulk_observe(reads, page, now=LATER) == [first]

    async def test_when_a_person_is_listed_twice_the_later_item_wins(self, store: Store) -> None:
        fence = await acquire_lease(store)
        _, reads, profiles = await lanes(store)
        page = [listed_person("ada", NOW, profiles.id, balance=n) for n in (1, 2)]
        await store.reads.bulk_observe(reads, page, now=NOW)
        assert written_fields(await claim_writes(store, fence)) == {"balance": 2}

    async def test_a_listing_by_id_releases_events_waiting_for_an_address(
        self, store: Store
    ) -> None:
        fence = await acquire_lease(store)
        events, reads, profiles = await lanes(store)
        await store.outbox.append(
            [Page(events, "webhook", [record(email=None, person="ada")], NOW)]
        )
        assert await take(store, events, fence) is None
        item = listed_person("ada", NOW, profiles.id, balance=1)
        by_id = replace(item, observation=replace(item.observation, email=item.email))
        await store.reads.bulk_observe(reads, [by_id], now=NOW)
        claim = await take(store, events, fence)
        assert claim
        assert [entry.email for entry in claim.entries] == ["ada@example.com"]
