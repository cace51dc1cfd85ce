"""Several processes that find an empty database at once: one creates the schema, all use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from connector.ports import Fence, Holder
from connector.store import schema
from connector.store.sql import open_store
from connector.testing.contracts.store import NOW, TTL

pytestmark = pytest.mark.usefixtures("migrations")
PROCESSES = 4


async def on_server(url: str, statement: str) -> None:
    """Run a statement that PostgreSQL refuses in a transaction."""
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT"
    )
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A database without a table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/s.db"
        return
    server: str = request.getfixturevalue("postgres_url")
    await on_server(server, "CREATE DATABASE first_start")
    yield make_url(server).set(database="first_start").render_as_string(hide_password=False)
    await on_server(server, "DROP DATABASE first_start WITH (FORCE)")


async def test_processes_that_start_at_once_on_an_empty_database_all_open_it(
    empty_url: str,
) -> None:
    stores = await asyncio.gather(*(open_store(empty_url) for _ in range(PROCESSES)))
    leases = await asyncio.gather(
        *(
            store.leases.acquire("store", f"process {n}", now=NOW, ttl=TTL)
            for n, store in enumerate(stores)
        )
    )
    assert sorted(type(lease).__name__ for lease in leases) == ["Fence"] + ["Holder"] * 3
    [holder] = [lease.holder for lease in leases if isinstance(lease, Fence)]
    assert {lease.holder for lease in leases if isinstance(lease, Holder)} == {holder}
    for store in stores:
        await store.aclose()
    revision = await asyncio.to_thread(schema.with_connection, empty_url, schema.revision_of)
    assert revision == schema.HEAD
