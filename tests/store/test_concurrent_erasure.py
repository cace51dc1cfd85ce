"""People are erased, and named again, while records about them are stored and reads are claimed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from connector.domain.errors import StoreError
from connector.domain.lanes import Millis
from connector.domain.outcomes import Outcome, Unsent
from connector.domain.records import Page
from connector.ports import Fence, RetryPolicy
from connector.store.admin import integrity
from connector.store.sql import SqlStore, open_store
from connector.testing.contracts.profile_harness import claim_reads, lanes
from connector.testing.contracts.store import HORIZON, NOW, record
from tests.stores import delete_all

ADDRESSES = [f"{name}@example.com" for name in "abcd"]
IDS = ["1", "2", "3", "4", "5"]
ROUNDS, AT_ONCE = 30, 4


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    on_file = request.param == "sqlite"
    return f"sqlite:///{tmp_path}/s.db" if on_file else request.getfixturevalue("postgres_url")


class Life:
    """What happens to the people of one store, in the order of a seed."""

    def __init__(self, store: SqlStore, seed: int) -> None:
        self.store = store
        self.rng = random.Random(seed)

    async def run(self) -> None:
        fence = await self.store.leases.acquire("store", "one", now=NOW, ttl=10**9)
        assert isinstance(fence, Fence)
        self.fence = fence
        self.events, self.reads, _ = await lanes(self.store)
        for _ in range(ROUNDS):
            acts = self.rng.choices(
                [self.append, self.forget, self.lift, self.claim], [4, 1, 1, 3], k=AT_ONCE
            )
            done = await asyncio.gather(*(act() for act in acts), return_exceptions=True)
            failed = [error for error in done if isinstance(error, BaseException)]
            assert all(isinstance(error, StoreError) for error in failed), failed

    def who(self) -> dict[str, Any]:
        person = self.rng.choice([None, *IDS])
        email = self.rng.choice([*ADDRESSES, None]) if person else self.rng.choice(ADDRESSES)
        aliases = self.rng.sample(IDS, 1) if person and self.rng.random() < 0.3 else ()
        return {"person": person, "email": email, "aliases": tuple(aliases)}

    async def append(self) -> None:
        records = [record(refresh=True, **self.who()) for _ in range(3)]
        page = Page(self.events, "webhook", records, NOW, read_lane=self.reads.id, by_id=True)
        await self.store.outbox.append([page])

    async def forget(self) -> None:
        who = self.rng.choice([*ADDRESSES, *IDS])
        await self.store.erasure.forget("acme", who, now=NOW)

    async def lift(self) -> None:
        await self.store.erasure.remove_tombstone("acme", self.rng.choice([*ADDRESSES, *IDS]))

    async def claim(self) -> None:
        """Claim reads and give them back."""
        later = Millis(NOW + 1_000_000)
        if claim := await claim_reads(self.store, self.fence, later):
            outcomes: list[Outcome] = [Unsent(entry.seq) for entry in claim.entries]
            policy = RetryPolicy(HORIZON)
            await self.store.reads.settle(claim, outcomes, now=later, policy=policy)


@pytest.mark.parametrize("seed", range(2))
async def test_nothing_belongs_to_a_person_who_is_gone(url: str, seed: int) -> None:
    store = await open_store(url)
    try:
        await Life(store, seed).run()
        assert await asyncio.to_thread(integrity.check, url) == []
    finally:
        await store.database.write(delete_all)
        await store.aclose()
