"""A real PostgreSQL whose answer to the commit of a claim is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from connector.domain.errors import Problem, StoreError
from connector.store.sql import SqlStore, open_store
from connector.testing.contracts.unanswered_claims import QUEUES, TOKEN
from tests.stores import delete_all

from .proxy import CommitProxy, commit_proxy


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[CommitProxy]:
    async with commit_proxy(postgres_url) as running:
        yield running


@pytest.fixture
async def store(proxy: CommitProxy) -> AsyncIterator[SqlStore]:
    made = await open_store(proxy.url)
    yield made
    await made.database.write(delete_all)
    await made.aclose()


@pytest.mark.parametrize("name", QUEUES)
async def test_a_claim_that_was_committed_without_an_answer_is_given_back(
    store: SqlStore, proxy: CommitProxy, name: str
) -> None:
    queue = await QUEUES[name](store)
    proxy.lose = 1
    with pytest.raises(StoreError) as caught:
        await queue.claim(TOKEN)
    assert caught.value.problem is Problem.STORE_UNAVAILABLE
    assert proxy.lose == 0
    assert await queue.claim() is None, "the server has committed the claim"
    assert await queue.give_back(TOKEN) == 2
    claim = await queue.claim()
    assert claim
    assert {entry.attempts for entry in claim.entries} == {1}
