"""The account that addresses are compared within."""

from __future__ import annotations

from dataclasses import replace

from connector.domain.outcomes import Observed
from connector.domain.profile_state import address_hash
from connector.ports import RetryPolicy, Store
from connector.testing.contracts import list_harness
from connector.testing.contracts.profile_harness import (
    append_events,
    claim_reads,
    claim_writes,
    make_observation,
    profile_lane,
)
from connector.testing.contracts.store import HORIZON, NOW

UNKNOWN, ACCOUNT = "https://a.klaviyo.test", "ACC1"


async def observe(store: Store, harness: list_harness.ListHarness, name: str) -> None:
    """A profile of a connection whose account is not known yet."""
    await append_events(store, name)
    claim = await claim_reads(store, harness.fence)
    assert claim
    [entry] = claim.entries
    profiles = await profile_lane(store)
    seen = make_observation(entry.seq, name, NOW, profiles.id, balance=1)
    seen = replace(seen, address=address_hash(UNKNOWN, f"{name}@example.com"))
    outcome = Observed(entry.seq, seen)
    await store.reads.settle(claim, [outcome], now=NOW, policy=RetryPolicy(HORIZON))


class AddressScopesContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    async def test_a_profile_and_a_list_member_are_one_person_once_they_are_in_one_account(
        self, store: Store
    ) -> None:
        harness = await list_harness.make_harness(store)  # scoped by "acc"
        await observe(store, harness, "ada")
        await harness.sync(list_harness.VIP, "ada")
        assert await store.address_scopes.move("acme", ACCOUNT) == 2
        assert await harness.claim()
        assert await claim_writes(store, harness.fence, harness.at) is None

    async def test_without_it_they_are_not(self, store: Store) -> None:
        harness = await list_harness.make_harness(store)
        await observe(store, harness, "ada")
        await harness.sync(list_harness.VIP, "ada")
        assert await harness.claim()
        assert await claim_writes(store, harness.fence, harness.at)

    async def test_only_the_named_connection_is_moved_and_nothing_in_flight(
        self, store: Store
    ) -> None:
        harness = await list_harness.make_harness(store)
        await observe(store, harness, "ada")
        assert await store.address_scopes.move("other", ACCOUNT) == 0
        assert await claim_writes(store, harness.fence)
        assert await store.address_scopes.move("acme", ACCOUNT) == 0
