"""A claim whose commit may not have been answered is given back by its token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import pytest

from connector.domain.errors import StoreError
from connector.domain.lanes import DeliveryMode, Lane, Millis
from connector.domain.records import Claim
from connector.ports import Fence, Queue, Store
from connector.testing.contracts import actions, list_harness, profile_harness
from connector.testing.contracts.profile_harness import (
    append_events,
    profile_lane,
    read_lane,
)
from connector.testing.contracts.store import NOW, acquire_lease, page, record

TOKEN = 4711


@dataclass(frozen=True, slots=True)
class QueueWithTwo:
    """A queue with two entries of different people that are ready `at`."""

    queue: Queue
    lane: Lane
    fence: Fence
    at: Millis

    async def claim(self, token: int | None = None, *, limit: int = 100) -> Claim | None:
        return await self.queue.claim(
            self.lane,
            self.fence,
            now=self.at,
            limit=limit,
            mode=DeliveryMode.BATCH,
            mapping="v1",
            token=token,
        )

    async def give_back(self, token: int) -> int:
        claim = Claim(token, self.lane, ())
        return await self.queue.recover(self.fence, now=self.at, claim=claim)


async def _events(store: Store) -> QueueWithTwo:
    lane = await store.lanes.ensure("acme", "klaviyo", "event")
    await store.outbox.append([page(lane, record("a"), record("b", email="bob@example.com"))])
    return QueueWithTwo(store.outbox, lane, await acquire_lease(store), NOW)


async def _reads(store: Store) -> QueueWithTwo:
    await append_events(store, "ada", "bob")
    reads = await read_lane(store)
    return QueueWithTwo(store.reads, reads, await acquire_lease(store), NOW)


async def _profiles(store: Store) -> QueueWithTwo:
    fence = await acquire_lease(store)
    for name in ("ada", "bob"):
        await append_events(store, name)
        await profile_harness.read(store, fence, name, balance=1)
    profiles = await profile_lane(store)
    return QueueWithTwo(store.profiles, profiles, fence, NOW)


async def _memberships(store: Store) -> QueueWithTwo:
    harness = await list_harness.make_harness(store)
    await harness.sync(list_harness.VIP, "ada", "bob")
    return QueueWithTwo(store.memberships, harness.lane, harness.fence, harness.at)


async def _actions(store: Store) -> QueueWithTwo:
    harness = await actions.make_harness(store)
    await harness.add(actions.make_request("ada@example.com"))
    await harness.add(actions.make_request("bob@example.com", key="l"))
    return QueueWithTwo(store.actions, harness.lane, harness.fence, NOW)


QUEUES: Mapping[str, Callable[[Store], Awaitable[QueueWithTwo]]] = {
    "events": _events,
    "reads": _reads,
    "profiles": _profiles,
    "memberships": _memberships,
    "actions": _actions,
}


@pytest.mark.parametrize("name", QUEUES)
class UnansweredClaimsContract:
    """Subclass it beside a fixture `store` that yields an empty store."""

    async def test_what_a_claim_holds_is_as_before_after_it_is_given_back(
        self, store: Store, name: str
    ) -> None:
        queue = await QUEUES[name](store)
        first = await queue.claim(TOKEN)
        assert first
        assert first.token == TOKEN
        assert len(first.entries) == 2
        assert await queue.claim() is None
        assert await queue.give_back(TOKEN) == 2
        again = await queue.claim()
        assert again
        assert again.entries == first.entries

    async def test_only_the_entries_of_that_claim_are_given_back(
        self, store: Store, name: str
    ) -> None:
        queue = await QUEUES[name](store)
        one, other = await queue.claim(TOKEN, limit=1), await queue.claim(limit=1)
        assert one
        assert other
        assert await queue.give_back(TOKEN) == 1
        again = await queue.claim()
        assert again
        assert again.entries == one.entries
        assert await queue.give_back(TOKEN) == 0

    async def test_a_claim_that_was_not_committed_has_nothing_to_give_back(
        self, store: Store, name: str
    ) -> None:
        queue = await QUEUES[name](store)
        assert await queue.give_back(TOKEN) == 0
        claim = await queue.claim()
        assert claim
        assert len(claim.entries) == 2

    async def test_a_holder_that_lost_the_lease_gives_nothing_back(
        self, store: Store, name: str
    ) -> None:
        queue = await QUEUES[name](store)
        claim = await queue.claim(TOKEN)
        assert claim
        lost = replace(queue.fence, token=queue.fence.token - 1)
        with pytest.raises(StoreError, match="S40"):
            await replace(queue, fence=lost).give_back(TOKEN)
        assert await queue.claim() is None
