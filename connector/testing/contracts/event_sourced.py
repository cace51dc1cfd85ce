"""What every store does with an event that itself says something of its person's fields: the
mapping's `trusted` and `from_event`. Subclass it beside a fixture `store`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from connector.domain.errors import Problem
from connector.domain.lanes import (
    Millis,
)
from connector.domain.outcomes import (
    Accepted,
    Observed,
)
from connector.domain.records import (
    Appended,
    Page,
)
from connector.ports import Store
from connector.testing.contracts.profiles import (
    LATER,
    claim_reads,
    claim_writes,
    happen,
    lanes,
    read,
    seen,
    settle,
    told,
)
from connector.testing.contracts.store import HORIZON, NOW, hold, record


async def said(
    store: Store,
    at: int = NOW,
    *,
    key: str = "",
    who: str = "ada",
    email: str | None = "",
    partial: bool = True,
    received: int | None = None,
    **changes: Any,
) -> Appended:
    """An event that says this of its person at that time."""
    events, _, profiles = await lanes(store)
    name = who if email == "" else (email or "").partition("@")[0]
    observation = replace(seen(0, name, at, profiles.id, **changes), partial=partial)
    if email is None:
        observation = replace(observation, identity={}, address=None)
    else:
        email = f"{name}@example.com"
    one = record(key, email=email, person=who, observation=observation)
    [result] = await store.append([Page(events, "webhook", [one], Millis(received or at))])
    return result


class HearingContract:
    """Each test is a sentence about every store."""

    async def test_what_an_event_says_is_told_without_a_read(self, store: Store) -> None:
        fence = await hold(store)
        await said(store, tier="Gold")
        assert await claim_reads(store, fence) is None
        claim = await claim_writes(store, fence)
        assert told(claim) == {"tier": "Gold"}
        assert claim
        assert claim.entries[0].email == "ada@example.com"

    async def test_it_says_nothing_of_other_fields(self, store: Store) -> None:
        fence = await hold(store)
        await happen(store, "ada")
        await read(store, fence, "ada", balance=5, tier="Silver")
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(claim.entries[0].seq, "r"))
        await said(store, LATER, tier="Gold")
        assert told(await claim_writes(store, fence, LATER)) == {"tier": "Gold"}

    async def test_an_older_event_never_replaces_a_newer_read_nor_the_other_way(
        self, store: Store
    ) -> None:
        fence = await hold(store)
        await happen(store, "ada")
        await read(store, fence, "ada", NOW, balance=1, tier="Silver")
        await said(store, NOW - 1, received=LATER, balance=9, tier="Bronze")
        await said(store, NOW + 1, tier="Gold")
        assert told(await claim_writes(store, fence, LATER)) == {"balance": 1, "tier": "Gold"}

    async def test_a_read_that_was_sent_before_the_event_does_not_replace_it(
        self, store: Store
    ) -> None:
        fence = await hold(store)
        _, _, profiles = await lanes(store)
        await happen(store, "ada")
        claim = await claim_reads(store, fence, NOW)
        assert claim
        await said(store, NOW + 1, tier="Gold")
        sight = seen(claim.entries[0].seq, "ada", NOW, profiles.id, balance=1, tier="Silver")
        outcome = Observed(sight.person, sight)
        await store.reads.settle(claim, [outcome], now=LATER, horizon=HORIZON)
        assert told(await claim_writes(store, fence, LATER)) == {"balance": 1, "tier": "Gold"}

    async def test_of_several_events_in_one_page_the_latest_counts(self, store: Store) -> None:
        fence = await hold(store)
        events, _, profiles = await lanes(store)
        records = [
            record(
                person="ada",
                observation=replace(seen(0, "ada", NOW + at, profiles.id, n=at), partial=True),
            )
            for at in (2, 5, 1)
        ]
        other = record(
            email="bob@example.com",
            person="bob",
            observation=replace(seen(0, "bob", NOW, profiles.id, n=7), partial=True),
        )
        await store.append([Page(events, "webhook", [*records, other], LATER)])
        claim = await claim_writes(store, fence, LATER)
        assert claim
        assert sorted(told(replace(claim, entries=[e]))["n"] for e in claim.entries) == [5, 7]

    async def test_a_redelivery_says_nothing(self, store: Store) -> None:
        fence = await hold(store)
        await said(store, key="e1", tier="Gold")
        await said(store, LATER, key="e1", tier="Silver")
        assert told(await claim_writes(store, fence, LATER)) == {"tier": "Gold"}

    async def test_what_is_not_stored_says_nothing(self, store: Store) -> None:
        """Event and observation are one transaction."""
        fence = await hold(store)
        events, _, profiles = await lanes(store)
        good = replace(seen(0, "ada", NOW, profiles.id, tier="Gold"), partial=True)
        bad = replace(good, changes={"tier": object()})
        records = [record(person="ada", observation=o) for o in (good, bad)]
        try:
            await store.append([Page(events, "webhook", records, NOW)])
        except Exception:
            assert await claim_writes(store, fence, LATER) is None
            assert not [b for b in await store.insight.backlog() if b.ready]
        else:
            raise AssertionError("an observation that cannot be kept must fail its page")

    async def test_where_people_are_read_an_event_moves_nobody(self, store: Store) -> None:
        fence = await hold(store)
        await happen(store, "ada")
        await read(store, fence, "ada", balance=1)
        await said(store, LATER, email="ada.new@example.com", tier="Gold")
        claim = await claim_writes(store, fence, LATER)
        assert claim
        assert claim.entries[0].email == "ada@example.com"
        assert told(claim) == {"balance": 1, "tier": "Gold"}

    async def test_where_nobody_is_read_an_event_also_says_who_it_is(self, store: Store) -> None:
        fence = await hold(store)
        await said(store, partial=False, tier="Gold")
        claim = await claim_writes(store, fence)
        assert claim
        await settle(store, claim, Accepted(claim.entries[0].seq, "r"))
        await said(store, LATER, email="ada.new@example.com", partial=False)
        farewell = await claim_writes(store, fence, LATER, solo=True)
        assert told(farewell) == {"tier": None}
        assert farewell
        assert farewell.entries[0].email == "ada@example.com"
        await settle(store, farewell, Accepted(farewell.entries[0].seq, "r"), at=LATER)
        there = await claim_writes(store, fence, LATER)
        assert told(there) == {"tier": "Gold"}
        assert there
        assert there.entries[0].email == "ada.new@example.com"

    async def test_an_event_from_before_does_not_bring_the_old_address_back(
        self, store: Store
    ) -> None:
        fence = await hold(store)
        await said(store, LATER, email="ada.new@example.com", partial=False, tier="Gold")
        await said(store, NOW, received=LATER, partial=False, tier="Silver", level=1)
        claim = await claim_writes(store, fence, LATER)
        assert claim
        assert claim.entries[0].email == "ada.new@example.com"
        assert told(claim) == {"tier": "Gold", "level": 1}

    async def test_who_has_no_address_waits_for_one(self, store: Store) -> None:
        fence = await hold(store)
        await said(store, email=None, partial=False, tier="Gold")
        assert await claim_writes(store, fence) is None
        await said(store, NOW - 5, received=LATER, partial=False)
        assert told(await claim_writes(store, fence, LATER)) == {"tier": "Gold"}

    async def test_who_is_held_by_a_read_is_not_let_go_by_an_event(self, store: Store) -> None:
        fence = await hold(store)
        _, _, profiles = await lanes(store)
        await happen(store, "ada")
        claim = await claim_reads(store, fence)
        assert claim
        bad = seen(claim.entries[0].seq, "ada", NOW, profiles.id, balance=1)
        bad = replace(bad, problem=Problem.BAD_ADDRESS)
        await store.reads.settle(claim, [Observed(bad.person, bad)], now=NOW, horizon=HORIZON)
        await said(store, LATER, tier="Gold")
        assert await claim_writes(store, fence, LATER) is None

    async def test_of_who_is_withheld_an_event_tells_nothing(self, store: Store) -> None:
        fence = await hold(store)
        _, _, profiles = await lanes(store)
        await happen(store, "ada")
        claim = await claim_reads(store, fence)
        assert claim
        nobody = seen(claim.entries[0].seq, "ada", NOW, profiles.id)
        nobody = replace(
            nobody, identity={}, address=None, problem=Problem.NO_IDENTITY, withheld=True
        )
        await store.reads.settle(claim, [Observed(nobody.person, nobody)], now=NOW, horizon=HORIZON)
        await said(store, LATER, tier="Gold")
        assert await claim_writes(store, fence, LATER) is None
