"""A PostgreSQL that took no writes for a while: a failover, or an operator's
`default_transaction_read_only`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.engine import make_url

from connector.domain.errors import Problem, StoreError
from connector.domain.lanes import Millis
from connector.ports import Fence
from connector.store.sql import SqlStore, open_store
from tests.store.test_first_start import on_server

NAME = "read_only"


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[SqlStore]:
    """A store whose connections were made while its database refused writes."""
    await on_server(postgres_url, f"CREATE DATABASE {NAME}")
    url = make_url(postgres_url).set(database=NAME).render_as_string(hide_password=False)
    await (await open_store(url)).aclose()
    await on_server(postgres_url, f"ALTER DATABASE {NAME} SET default_transaction_read_only = on")
    store = await open_store(url)
    yield store
    await store.aclose()
    await on_server(postgres_url, f"DROP DATABASE {NAME} WITH (FORCE)")


async def acquire(store: SqlStore) -> object:
    return await store.leases.acquire("store", "me", now=Millis(0), ttl=1000)


async def test_connections_made_meanwhile_are_not_used_afterwards(
    store: SqlStore, postgres_url: str
) -> None:
    with pytest.raises(StoreError) as caught:
        await acquire(store)
    assert caught.value.problem is Problem.STORE_UNAVAILABLE
    assert "ReadOnlySQLTransactionError" in caught.value.detail
    await on_server(postgres_url, f"ALTER DATABASE {NAME} RESET default_transaction_read_only")
    assert isinstance(await acquire(store), Fence)
