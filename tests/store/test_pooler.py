"""A store behind a pooler that gives each transaction another connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from connector.domain.lanes import DeliveryMode, Millis
from connector.domain.outcomes import Accepted
from connector.ports import RetryPolicy
from connector.store.sql import SqlStore, open_store
from connector.testing.contracts.store import HORIZON, NOW, acquire_lease, events, page, record
from tests.stores import delete_all
from tests.waiting import async_until

from .pooler import pooler


@pytest.fixture(scope="module")
def pooled_url(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[str]:
    with pooler(tmp_path_factory.mktemp("pooler"), postgres_url) as pooled:
        yield pooled.url


@pytest.fixture
async def store(pooled_url: str, postgres_url: str) -> AsyncIterator[SqlStore]:
    opened = await open_store(pooled_url, listen_url=postgres_url)
    yield opened
    await opened.database.write(delete_all)
    await opened.aclose()


async def test_records_are_stored_claimed_and_settled_by_many_tasks(store: SqlStore) -> None:
    lane, fence = await events(store), await acquire_lease(store)

    async def one(n: int) -> None:
        await store.outbox.append([page(lane, record(f"{n}-{k}")) for k in range(5)])
        claim = await store.outbox.claim(
            lane, fence, now=Millis(NOW), limit=5, mode=DeliveryMode.BATCH, mapping="v1"
        )
        if claim:
            outcomes = [Accepted(entry.seq, "r") for entry in claim.entries]
            await store.outbox.settle(claim, outcomes, now=Millis(NOW), policy=RetryPolicy(HORIZON))

    await asyncio.gather(*map(one, range(40)))
    ready = await store.outbox.ready(lane.id, now=Millis(NOW), limit=1_000)
    assert ready.batch == 0


async def test_hints_pass_beside_it(store: SqlStore) -> None:
    received: list[str] = []
    released = asyncio.Event()
    listening = asyncio.create_task(store.hints.receive(received.append, released.set))
    while not received:
        await store.hints.send(["acme", "other"])
        await asyncio.sleep(0.01)
    await async_until("both have come", lambda: {"acme", "other"} <= set(received))
    assert not released.is_set()
    await store.hints.send_released()
    await async_until("it has come", released.is_set)
    listening.cancel()
