"""The end of shadow mode: everyone who was passed over is sent, once."""

from __future__ import annotations

from connector.domain.lanes import Millis
from connector.domain.outcomes import Accepted, Skipped
from connector.domain.profile_state import write_from_json
from connector.store.sql import SqlStore
from connector.testing.contracts.profile_harness import (
    append_events,
    claim_writes,
    profile_lane,
    read,
    settle,
)
from connector.testing.contracts.store import NOW, acquire_lease

LATER = Millis(NOW + 10_000)


async def test_people_skipped_in_shadow_are_sent_when_shadow_ends(store: SqlStore) -> None:
    fence = await acquire_lease(store)
    profiles = await profile_lane(store)
    for name in ("ada", "bo"):
        await append_events(store, name)
        await read(store, fence, name, balance=5)
        claim = await claim_writes(store, fence)
        assert claim
        [entry] = claim.entries
        passed = Skipped(entry.seq, "shadow") if name == "ada" else Accepted(entry.seq, "r")
        await settle(store, claim, passed)
    assert await claim_writes(store, fence, LATER) is None

    assert await store.profiles.end_shadow(profiles.id, now=LATER) == 1
    assert await store.profiles.end_shadow(profiles.id, now=LATER) == 0
    claim = await claim_writes(store, fence, LATER)
    assert claim
    [entry] = claim.entries
    write = write_from_json(entry.data)
    assert (write.identity, write.sets) == ({"email": "ada@example.com"}, {"balance": 5})


async def test_changes_after_a_skip_are_not_sent_while_shadow_lasts(
    store: SqlStore,
) -> None:
    """It is rendered again, and passed over again: nothing piles up."""
    fence = await acquire_lease(store)
    for at, balance in ((NOW, 5), (NOW + 5_000, 6)):
        await append_events(store, "ada", at=at)
        await read(store, fence, "ada", at, balance=balance)
        claim = await claim_writes(store, fence, at)
        assert claim
        [entry] = claim.entries
        await settle(store, claim, Skipped(entry.seq, "shadow"), at=at)
    profiles = await profile_lane(store)
    assert await store.profiles.end_shadow(profiles.id, now=LATER) == 1
    claim = await claim_writes(store, fence, LATER)
    assert claim
    assert write_from_json(claim.entries[0].data).sets == {"balance": 6}
