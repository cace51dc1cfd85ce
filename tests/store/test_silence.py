"""A real PostgreSQL that is silent and closes no connection: a cut cable, a host that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, select

from connector.domain.errors import Problem, StoreError
from connector.store import database
from connector.store.database import on_request
from connector.store.sql import SqlStore, open_store
from connector.store.tables import leases
from connector.testing.contracts.store import NOW, acquire_lease
from connector.testing.contracts.unanswered_claims import QUEUES, TOKEN
from tests.stores import delete_all

from .proxy import CommitProxy, commit_proxy

LIMIT = 0.5


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[CommitProxy]:
    async with commit_proxy(postgres_url) as running:
        yield running


@contextmanager
def impatient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "ANSWER_LIMIT", LIMIT)
        yield


@pytest.fixture
async def store(proxy: CommitProxy) -> AsyncIterator[SqlStore]:
    with impatient():  # the server's limit is set here
        made = await open_store(proxy.url)
    yield made
    await made.database.write(delete_all)
    await made.aclose()


async def test_a_silent_database_is_an_unavailable_one(store: SqlStore, proxy: CommitProxy) -> None:
    await acquire_lease(store)
    proxy.silent = True
    calls = [store.lanes.ensure("acme", "klaviyo", "event") for _ in range(3)]
    with impatient():
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreError] * 3
    assert {a.problem for a in answers if isinstance(a, StoreError)} == {Problem.STORE_UNAVAILABLE}
    proxy.silent = False
    assert await store.lanes.ensure("acme", "klaviyo", "event"), "by another connection"


async def test_the_server_gives_up_a_transaction_whose_client_is_silent(
    store: SqlStore, proxy: CommitProxy
) -> None:
    """Its locks would hold up whoever takes the lease."""
    queue = await QUEUES["events"](store)

    def work(c: Connection) -> None:
        c.execute(select(leases).with_for_update())
        proxy.silent = True
        c.execute(select(leases))

    with impatient(), pytest.raises(StoreError):
        await store.database.write(work)
    proxy.silent = False
    claim = await queue.claim(TOKEN)
    assert claim
    while True:
        try:
            assert await queue.give_back(TOKEN) == 2
        except StoreError:
            continue  # the server has not noticed yet
        break


async def test_only_what_a_person_asked_for_may_take_its_time(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(c: Connection) -> int:
        return c.execute(select(1)).scalar_one()

    with monkeypatch.context() as patch:
        patch.setattr(database, "ANSWER_LIMIT", 0.0)
        with pytest.raises(StoreError):
            await store.database.read(work)
        assert await store.database.read(on_request(work)) == 1


async def test_a_person_who_changes_the_account_has_time_for_all_its_members(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(database, "ANSWER_LIMIT", 0.0)
        await store.member_groups.reset_account("acme", now=NOW)
